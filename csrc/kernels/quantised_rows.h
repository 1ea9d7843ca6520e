// Rows beside quantised weights: inputs made whole numbers, and one row of the weights made floats.
#pragma once
#include "kernels/codes.h"
#include "kernels/math.h"
#include "kernels/table.h"

namespace penstock {
namespace {

// One row of quantised inputs into a panel; x is in the order of the packed
// inputs.
void quantise_row(const Quant& q, SumForm form, const float* x, uint32_t* panel, int rows, int row) {
    const auto largest = [](const float* p, int64_t n) {
        F most = zero(), bad = zero();  // infinities and NaN make the scale NaN
        for (int64_t i = 0; i < n; i += 16) {
            const F v = load(p + i, static_cast<int>(n - i < 16 ? n - i : 16));
            most = max(abs(v), most);
            bad = fma(v, zero(), bad);
        }
        return max_of(most) + sum(bad);
    };
    const float of_row = q.one_scale ? largest(x, q.inputs) : 0;
    const int64_t part = q.part(), step = part * q.parts_in_step();
    const bool pairs = form == SumForm::ready && q.whole_minima();
    const int32_t times = form == SumForm::ready && q.zeros == ZeroKind::constant ? -static_cast<int32_t>(q.zero) : 1;
    const bool nothing_filled = q.group == q.padded();
    panel += row;
    for (int64_t g = 0; g < q.groups(); g += q.per_chunk) {
        const int64_t filled = q.chunk_inputs(g);
        const int64_t there = q.inputs - g * q.group;
        const auto real = [&](int64_t i) {  // inputs of this chunk before its filled-up input i
            if (nothing_filled) return i < there ? i : there;
            const int64_t in_group = i % q.padded();
            const int64_t n = i / q.padded() * q.group + (in_group < q.group ? in_group : q.group);
            return n < there ? n : there;
        };
        for (int64_t from = 0; from < filled; from += step) {
            const int64_t to = from + step < filled ? from + step : filled;
            const float most = q.one_scale ? of_row : largest(x + real(from), real(to) - real(from));
            const F factor = set(most > 0 ? 127.0f / most : 0.0f);
            const float scale = most / 127.0f;
            std::memcpy(panel, &scale, 4);
            panel += rows;
            uint32_t* even = nullptr;
            for (int64_t begin = from; begin < to; begin += part) {
                const int64_t n = (begin + part < to ? begin + part : to) - begin;
                const int64_t first = real(begin), inputs = real(begin + n) - first;
                F total = zero();
                uint32_t* words = panel + rows;
                for (int64_t i = 0; i < n; i += 16, words += 4 * rows) {
                    const int count = static_cast<int>(inputs - i < 16 ? (inputs > i ? inputs - i : 0) : 16);
                    const F v = min(max(round(load(x + first + i, count) * factor), set(-127)), set(127));
                    total = total + v;
                    int8_t bytes[16];
                    store_i8(bytes, v);
                    for (int64_t j = 0; j < (n - i < 16 ? (n - i) / 4 : 4); j++)
                        std::memcpy(words + j * rows, bytes + 4 * j, 4);
                }
                const int32_t all = static_cast<int32_t>(sum(total)) * times;
                *panel = static_cast<uint32_t>(all);
                if (pairs) {
                    if (even != nullptr) {
                        *even = (*even & 0xffff) | static_cast<uint32_t>(all) << 16;
                        even = nullptr;
                    } else {
                        even = panel;
                        *even &= 0xffff;
                    }
                }
                panel += (1 + n / 4) * rows;
            }
        }
        x += real(filled);
    }
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
