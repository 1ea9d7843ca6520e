// Rows beside quantised weights: inputs made whole numbers, and one row of the weights made floats.
#pragma once
#include <type_traits>

#include "kernels/bytes.h"
#include "kernels/codes.h"
#include "kernels/input_steps.h"
#include "kernels/math.h"
#include "kernels/table.h"

namespace penstock {
namespace {

// Words into the rows of a panel, and the sum of what they hold; kWords of them, or as many as `words` says.
template <int kWords>
inline int32_t fill_words(const int8_t* bytes, const int32_t* fours, int64_t words, uint32_t* to, int rows) {
    const int64_t n = kWords != 0 ? kWords : words;
    int32_t sum = 0;
#pragma GCC unroll 8
    for (int64_t i = 0; i < n; i++) sum += fours[i];
    if (rows == 1) {
        std::memcpy(to, bytes, static_cast<size_t>(4 * n));
        return sum;
    }
#pragma GCC unroll 8
    for (int64_t i = 0; i < n; i++, to += rows) std::memcpy(to, bytes + 4 * i, 4);
    return sum;
}

// One row of quantised inputs into a panel; x is in the order of the packed inputs. Scales are found for the whole row
// first, as each of them ends a chain of dependent instructions.
void quantise_row(const Quant& q, SumForm form, const float* x, uint32_t* panel, int rows, int row) {
    panel += row;
    const float of_row = q.one_scale ? largest(x, q.inputs) : 0;
    each_step(q, x, panel, rows, [&](const InputStep& s, auto real) {
        const float most = q.one_scale ? of_row : largest(s.x + real(s.from), real(s.to) - real(s.from));
        std::memcpy(s.panel, &most, 4);
    });

    const bool pairs = form == SumForm::ready && q.whole_minima();
    const int32_t times = form == SumForm::ready && q.zeros == ZeroKind::constant ? -static_cast<int32_t>(q.zero) : 1;
    const int64_t part = q.part();
    alignas(64) int8_t bytes[kStepInputs + 16] = {};
    alignas(64) int32_t fours[kStepInputs / 4];  // sums of four of them
    each_step(q, x, panel, rows, [&](const InputStep& s, auto real) {
        const float most = __builtin_bit_cast(float, *s.panel), scale = most / 127.0f;
        const F factor = set(most > 0 ? 127.0f / most : 0.0f);
        std::memcpy(s.panel, &scale, 4);
        const int64_t n = s.to - s.from;
        round_step(s, real, part, factor, bytes);
        for (int64_t i = 0; i < n; i += 64)
            store_i(fours + i / 4, dot_small(set_i(0), broadcast_codes(0x01010101), load_codes(bytes + i)));
        uint32_t *to = s.panel + rows, *even = nullptr;
        for (int64_t i = 0; i < n / 4;) {
            const int64_t left = n / 4 - i, words = part / 4 < left ? part / 4 : left;
            const auto fill = [&](auto known) {
                return fill_words<known()>(bytes + 4 * i, fours + i, words, to + rows, rows);
            };
            const int32_t sum = times * (words == 8   ? fill(std::integral_constant<int, 8>{})
                                         : words == 4 ? fill(std::integral_constant<int, 4>{})
                                                      : fill(std::integral_constant<int, 0>{}));
            i += words;
            if (!pairs) {
                *to = static_cast<uint32_t>(sum);
            } else if (even == nullptr) {
                even = to;
                *to = static_cast<uint32_t>(sum) & 0xffff;
            } else {
                *even |= static_cast<uint32_t>(sum) << 16;
                *to = static_cast<uint32_t>(sum);
                even = nullptr;
            }
            to += (1 + words) * rows;
        }
    });
}

// y = scale * elements [begin, end) of row `row`.
void gather_quantised(const Matrix& m, int64_t row, int64_t begin, int64_t end, float scale, float* y) {
    const Quant& q = m.quant;
    const ChunkLayout at(q);
    const std::byte* tile = m.data + row / kTile * m.tile_bytes;
    const int64_t lane = row % kTile, count = q.groups();
    alignas(64) float scales[kChunkGroups * kTile], shifts[kChunkGroups * kTile], weights[kFloatInputs * kTile];
    const std::byte* chunk = tile;
    int64_t before = 0;
    for (int64_t g = 0; g < count; g += q.per_chunk, chunk += at.bytes) {
        const int64_t groups = count - g < q.per_chunk ? count - g : q.per_chunk;
        const int64_t next = (g + groups) * q.group < q.inputs ? (g + groups) * q.group : q.inputs;
        if (q.order == nullptr && (next <= begin || before >= end)) {
            before = next;
            continue;
        }
        const int64_t inputs = (groups - 1) * q.padded() + q.padded_of(g + groups - 1);
        chunk_scales(q, at, chunk, groups, scales, shifts, kTile);
        for (int64_t from = 0; from < inputs; from += kFloatInputs) {
            const int64_t to = from + kFloatInputs < inputs ? from + kFloatInputs : inputs;
            const int64_t n = expand(q, chunk + at.codes, g, from, to, scales, shifts, kTile, weights);
            for (int64_t i = 0; i < n; i++) {
                const int64_t input = q.order != nullptr ? q.order[before + i] : before + i;
                if (input >= begin && input < end) y[input - begin] = weights[i * kTile + lane] * scale;
            }
            before += n;
        }
    }
}

}  // namespace
}  // namespace penstock
