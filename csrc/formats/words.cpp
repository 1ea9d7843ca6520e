// AWQ's and GPTQ's words, packed without turning them into rows first.
#include <cstring>
#include <stdexcept>

#include "formats/pack.h"

namespace penstock {
namespace {

void need(bool ok, const char* message) {
    if (!ok) throw std::invalid_argument(message);
}

// The bits where output i of a word's eight is.
constexpr int kInOrder[8] = {0, 4, 8, 12, 16, 20, 24, 28}, kAwq[8] = {0, 16, 4, 20, 8, 24, 12, 28};

struct Reader {
    WordRows r;
    const PackMath* math;

    uint32_t zero(int64_t group, int64_t row) const {
        if (r.zeros == nullptr) return 8;
        uint32_t word;
        std::memcpy(&word, r.zeros + group * r.zeros_stride + row / 8 * 4, 4);
        // Apart from its index, which GCC 12 loses under UBSan if it stands behind the choice itself.
        const int* order = r.layout == WordLayout::awq ? kAwq : kInOrder;
        return ((word >> order[row % 8]) + static_cast<uint32_t>(r.plus)) & 15;
    }

    void operator()(int64_t row, int, int64_t first, int64_t groups, TileChunk& out) const {
        for (int64_t g = 0; g < groups; g++) {
            uint16_t scales[kTile];
            std::memcpy(scales, r.scales + (first + g) * r.scales_stride + row * 2, sizeof scales);
            for (int lane = 0; lane < kTile; lane++) {
                out.scales[g][lane] = scales[lane];
                out.zeros[g][lane] = zero(first + g, row + lane);
            }
        }
        const uint8_t* words = r.words + (r.layout == WordLayout::awq ? row / 8 * 4 : row * 4);
        math->words(r.layout, words, r.stride, first * r.group, groups * r.group, out.words);
    }

    // Whether all zero points are one number.
    bool one_zero() const {
        const uint32_t first = zero(0, 0);
        if (r.zeros == nullptr) return true;
        const uint32_t word = ((first - static_cast<uint32_t>(r.plus)) & 15) * 0x11111111u;
        for (int64_t g = 0; g < r.k / r.group; g++)
            for (int64_t i = 0; i < r.n / 8; i++)
                if (std::memcmp(r.zeros + g * r.zeros_stride + i * 4, &word, 4) != 0) return false;
        return true;
    }
};

}  // namespace

QuantSource word_source(const WordRows& r, const PackMath& math) {
    need(r.n > 0 && r.k > 0 && r.n % kTile == 0 && r.k < int64_t{1} << 31, "sizes do not fit");
    need(r.group > 0 && r.group % 8 == 0 && r.k % r.group == 0, "groups do not fit");
    Reader reader{r, &math};
    Quant q;
    q.codes = CodeKind::u4;
    q.scales = ScaleKind::f16;
    const bool same = reader.one_zero();
    q.zeros = same ? ZeroKind::constant : ZeroKind::u8;
    q.zero = same ? static_cast<uint8_t>(reader.zero(0, 0)) : 0;
    q.group = static_cast<int32_t>(r.group);
    q.inputs = r.k;
    q.per_chunk = groups_of_chunk(q);
    constexpr int kWordsOfLine = kLineBytes / 4;
    return {q, {}, reader, r.layout == WordLayout::awq ? kWordsOfLine * 8 / kTile : 1};
}

}  // namespace penstock
