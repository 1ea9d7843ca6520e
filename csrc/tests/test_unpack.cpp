// Words of codes turned into rows, number by number; rows of words end where their memory does.
#include "formats/unpack.h"
#include "support.h"

using namespace penstock;
using namespace penstock::test;

namespace {

constexpr uint8_t kUntouched = 0xa5;

uint32_t word(const Words& words, int64_t row, int64_t column) {
    uint32_t w;
    std::memcpy(&w, words.data + row * words.stride + column * 4, 4);
    return w;
}

// `gap` bytes between rows, in the source (which begins at an odd address then) and in the output.
void check(int64_t rows, int64_t columns, int64_t gap) {
    Random random(static_cast<uint64_t>(rows * 1000 + columns));
    const int64_t stride = columns * 4 + gap, skip = gap % 4;
    Buffer<uint8_t> memory(skip + rows * stride - gap);
    for (int64_t i = 0; i < memory.size(); i++) memory[i] = static_cast<uint8_t>(random.next() >> 20);
    const Words words{memory.data() + skip, rows, columns, stride};

    const int64_t ld = rows * 4 + gap;
    for (const uint32_t flip : {0u, 0x80808080u}) {
        Buffer<uint8_t> out(columns * ld - gap, kUntouched);
        transpose_words(words, flip, out.data(), ld);
        for (int64_t j = 0; j < columns; j++) {
            for (int64_t i = 0; i < rows; i++) {
                uint32_t found;
                std::memcpy(&found, out.data() + j * ld + i * 4, 4);
                CHECK(found == (word(words, i, j) ^ flip), "word %ld %ld of %ld x %ld", i, j, rows, columns);
            }
            for (int64_t i = j * ld + rows * 4; i < (j + 1) * ld && i < out.size(); i++)
                CHECK(out[i] == kUntouched, "behind row %ld of %ld x %ld", j, rows, columns);
        }
    }

    if (rows % 2 != 0) return;
    constexpr int kOutput[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    const int64_t half = rows / 2 + gap;
    Buffer<uint8_t> out(8 * columns * half - gap, kUntouched);
    unpack_awq(words, out.data(), half);
    for (int64_t j = 0; j < columns; j++)
        for (int nibble = 0; nibble < 8; nibble++) {
            const int64_t at = (8 * j + kOutput[nibble]) * half;
            for (int64_t i = 0; i < rows; i++) {
                const uint32_t code = word(words, i, j) >> 4 * nibble & 15;
                CHECK((out[at + i / 2] >> 4 * (i % 2) & 15) == code, "code %ld %ld of %ld x %ld", i, j, rows, columns);
            }
            for (int64_t i = at + rows / 2; i < at + half && i < out.size(); i++)
                CHECK(out[i] == kUntouched, "behind code row %ld of %ld x %ld", j, rows, columns);
        }
}

}  // namespace

int main() {
    for (const int64_t rows : {1, 2, 8, 15, 16, 17, 32, 126, 128, 130, 256})
        for (const int64_t columns : {1, 3, 15, 16, 17, 48, 50})
            for (const int64_t gap : {0, 5, 64}) check(rows, columns, gap);
    std::printf("unpack: ok\n");
    return 0;
}
