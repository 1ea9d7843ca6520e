// Blocks of whole cache lines on both sides: 16 words by 16 rows, or for AWQ by 128 inputs, of which 64 bytes a row
// come.
#include "formats/unpack.h"

#include <algorithm>

#include "formats/lanes.h"

namespace penstock {
namespace {

constexpr int kLine = 16;  // words
using Line = uint32_t[kLine];

// Rows of a block from `row`, `column` on, zeros beyond the edges.
template <int N>
void load(const Words& words, int64_t row, int64_t column, Line* block) {
    const size_t bytes = static_cast<size_t>(std::min<int64_t>(kLine, words.columns - column)) * 4;
    const int rows = static_cast<int>(std::min<int64_t>(N, words.rows - row));
    const uint8_t* from = words.data + row * words.stride + column * 4;
    if (rows == N && bytes == sizeof(Line)) {
        for (int i = 0; i < N; i++) std::memcpy(block[i], from + i * words.stride, sizeof(Line));
        return;
    }
    std::memset(block, 0, N * sizeof(Line));
    for (int i = 0; i < rows; i++) std::memcpy(block[i], from + i * words.stride, bytes);
}

// A line, or what is left of a row.
void store(uint8_t* to, const Line& line, size_t bytes) {
    if (bytes == sizeof(Line)) {
        std::memcpy(to, line, sizeof(Line));
    } else {
        std::memcpy(to, line, bytes);
    }
}

void transpose(const Line* block, Line* out) {
    const uint8_t* rows[kLine];
    for (int i = 0; i < kLine; i++) rows[i] = reinterpret_cast<const uint8_t*>(block[i]);
    for (int i = 0; i < kLine; i += kLanes) {
        V columns[kLine];
        words<kLine>(some_rows(rows, i), 0, columns);
        for (int j = 0; j < kLine; j++) std::memcpy(out[j] + i, &columns[j], sizeof(V));
    }
}

// Byte i of four words becomes word i, the first word's byte lowest.
inline void transpose_bytes(const V4* w, V4* out) {
    constexpr uint32_t kEven = 0x00ff00ff;
    const V4 a = (w[0] & kEven) | (w[1] & kEven) << 8, b = (w[0] >> 8 & kEven) | (w[1] & ~kEven);
    const V4 c = (w[2] & kEven) | (w[3] & kEven) << 8, d = (w[2] >> 8 & kEven) | (w[3] & ~kEven);
    out[0] = (a & 0xffff) | c << 16;
    out[1] = (b & 0xffff) | d << 16;
    out[2] = a >> 16 | (c & 0xffff0000);
    out[3] = b >> 16 | (d & 0xffff0000);
}

constexpr int kInputs = 8 * kLine;  // of an AWQ block: a line of nibbles

// Eight inputs: word of outputs 0 .. 7 of 16 columns, each with one's eight codes.
void unpack_eight(const Line* block, Line (*out)[kLine], int at) {
    constexpr uint32_t kLow = 0x0f0f0f0f;
    for (int lane = 0; lane < kLine; lane += 4) {
        V4 even[4], odd[4], found[8];
        for (int i = 0; i < 4; i++) {
            V4 first, second;
            std::memcpy(&first, block[2 * i] + lane, sizeof(V4));
            std::memcpy(&second, block[2 * i + 1] + lane, sizeof(V4));
            even[i] = (first & kLow) | (second & kLow) << 4;  // nibbles 0 2 4 6: outputs 0 4 1 5
            odd[i] = (first >> 4 & kLow) | (second & ~kLow);  // nibbles 1 3 5 7: outputs 2 6 3 7
        }
        transpose_bytes(even, found);
        transpose_bytes(odd, found + 4);
        constexpr int kOutput[8] = {0, 4, 1, 5, 2, 6, 3, 7};
        for (int i = 0; i < 8; i++) std::memcpy(out[kOutput[i]][at] + lane, &found[i], sizeof(V4));
    }
}

}  // namespace

void transpose_words(const Words& words, uint32_t flip, uint8_t* out, int64_t stride) {
    alignas(64) Line block[kLine], turned[kLine];
    for (int64_t column = 0; column < words.columns; column += kLine) {
        const int columns = static_cast<int>(std::min<int64_t>(kLine, words.columns - column));
        for (int64_t row = 0; row < words.rows; row += kLine) {
            load<kLine>(words, row, column, block);
            transpose(block, turned);
            const size_t bytes = static_cast<size_t>(std::min<int64_t>(kLine, words.rows - row)) * 4;
            for (int j = 0; j < columns; j++) {
                for (uint32_t& word : turned[j]) word ^= flip;
                store(out + (column + j) * stride + row * 4, turned[j], bytes);
            }
        }
    }
}

void unpack_awq(const Words& words, uint8_t* out, int64_t stride) {
    alignas(64) Line block[kInputs], codes[8][kLine], turned[kLine];
    for (int64_t column = 0; column < words.columns; column += kLine) {
        const int columns = static_cast<int>(std::min<int64_t>(kLine, words.columns - column));
        for (int64_t row = 0; row < words.rows; row += kInputs) {
            load<kInputs>(words, row, column, block);
            for (int i = 0; i < kLine; i++) unpack_eight(block + 8 * i, codes, i);
            const size_t bytes = static_cast<size_t>(std::min<int64_t>(kInputs, words.rows - row)) / 2;
            for (int i = 0; i < 8; i++) {
                transpose(codes[i], turned);
                uint8_t* to = out + (8 * column + i) * stride + row / 2;
                for (int j = 0; j < columns; j++) store(to + 8 * j * stride, turned[j], bytes);
            }
        }
    }
}

}  // namespace penstock
