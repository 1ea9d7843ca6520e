// Panels of a MatrixUnit (kernels/table.h): how they are filled and gone over.
#pragma once
#include "kernels/bytes.h"
#include "kernels/codes.h"
#include "kernels/input_steps.h"

namespace penstock {
namespace {

constexpr int kBlockWords = 16;

// Steps of a quantised matrix (formats/quant.h).
struct UnitStep {
    int64_t chunk;   // number of its chunk
    int64_t from;    // filled-up inputs of the chunk before it
    int64_t inputs;  // filled up
    int64_t parts;
    int64_t block;   // blocks of a row before it
    int64_t header;  // words of a row's headers before it
};
inline int64_t blocks_of(int64_t inputs) { return (inputs + 63) / 64; }

// f(step) for all steps; gives what would be the next one's block and header.
template <class Function>
inline UnitStep each_unit_step(const Quant& q, Function f) {
    const int64_t groups = q.groups(), part = q.part(), step = part * q.parts_in_step(), parts = step / part;
    const int64_t chunks = (groups + q.per_chunk - 1) / q.per_chunk, whole = q.per_chunk * q.padded();
    UnitStep s{};
    for (; s.chunk < chunks; s.chunk++) {
        const int64_t filled = s.chunk + 1 < chunks ? whole : q.chunk_inputs(s.chunk * q.per_chunk);
        for (s.from = 0; s.from < filled; s.from += step) {
            const bool all = filled - s.from >= step;
            s.inputs = all ? step : filled - s.from;
            s.parts = all ? parts : (s.inputs + part - 1) / part;
            f(static_cast<const UnitStep&>(s));
            s.block += blocks_of(s.inputs);
            s.header += 1 + s.parts;
        }
    }
    return s;
}

// Blocks and words of headers of a row.
inline UnitStep unit_row(const Quant& q) {
    const int64_t groups = q.groups(), part = q.part(), step = part * q.parts_in_step();
    const int64_t before = (groups - 1) / q.per_chunk, whole = q.per_chunk * q.padded();  // whole chunks
    UnitStep row{};
    const auto add = [&](int64_t inputs, int64_t times) {
        const int64_t steps = inputs / step, rest = inputs - steps * step, parts = (rest + part - 1) / part;
        row.block += times * (steps * blocks_of(step) + blocks_of(rest));
        row.header += times * (steps * (1 + step / part) + (rest > 0 ? 1 + parts : 0));
    };
    add(whole, before);
    add(q.chunk_inputs(before * q.per_chunk), 1);
    return row;
}

int64_t unit_row_words(const Matrix& m, Act act) {
    if (act == Act::bf16) return (m.k + 31) / 32 * kBlockWords;
    const UnitStep end = unit_row(m.quant);
    return end.block * kBlockWords + (end.header + kBlockWords - 1) / kBlockWords * kBlockWords;
}

// A row of bf16 numbers, filled up with zeros.
void unit_fill(const float* x, int64_t k, uint32_t* panel, int rows, int row) {
    panel += row * kBlockWords;
    for (int64_t i = 0; i < k; i += 32, panel += rows * kBlockWords) {
        const int n = static_cast<int>(k - i < 32 ? k - i : 32);
        if (n == 32) {
            store_line(panel, load(x + i), load(x + i + 16));
        } else {
            store_line(panel, load(x + i, n < 16 ? n : 16), n > 16 ? load(x + i + 16, n - 16) : zero());
        }
    }
}

// Bytes, one scale a row of either: unsigned codes meet signed inputs, and sums go over all of them, as many as 31 bits
// have room for.
inline bool is_whole(const Quant& q) {
    return q.one_scale && q.codes == CodeKind::u8 && q.zeros == ZeroKind::constant && q.scales != ScaleKind::super &&
           q.per_chunk == 1 && q.group >= q.inputs && q.padded() >= kStepInputs && q.inputs <= 1 << 17;
}

// Sums lie as the kernels want them: as floats, times the zero that all codes have in common (of all inputs, as a whole
// number in the first part's place, without it), and where minima are whole numbers those of two parts as 16 bits each
// in the first one's word. The form asked for is `ready`, or there would be no kernels.
void unit_quantise(const Quant& q, SumForm, const float* x, uint32_t* panel, int rows, int row) {
    const float of_row = q.one_scale ? largest(x, q.inputs) : 0;
    const int64_t part = q.part();
    const bool constant = q.zeros == ZeroKind::constant, pairs = q.whole_minima();
    int32_t total = 0;
    uint32_t *blocks = panel + row * kBlockWords, *header = panel + unit_row(q).block * rows * kBlockWords + row;
    uint32_t* const headers = header;
    alignas(64) int8_t bytes[kStepInputs + 64] = {};
    alignas(64) int32_t fours[kStepInputs / 4];
    each_step(q, x, nullptr, 0, [&](const InputStep& s, auto real) {
        const float most = q.one_scale ? of_row : largest(s.x + real(s.from), real(s.to) - real(s.from));
        const float scale = most / 127.0f;
        const int64_t n = s.to - s.from;
        round_step(s, real, part, set(most > 0 ? 127.0f / most : 0.0f), bytes);
        for (int64_t i = 0; i < n; i += 64, blocks += rows * kBlockWords) {
            const Codes line = load_codes(bytes + i);
            store_i(fours + i / 4, dot_small(set_i(0), broadcast_codes(0x01010101), line));
            store_codes(blocks, line);
        }
        std::memcpy(header, &scale, 4);
        for (int64_t from = 0, p = 0; from < n; from += part, p++) {
            int32_t sum = 0;
            for (int64_t i = from / 4; i < (from + part < n ? from + part : n) / 4; i++) sum += fours[i];
            header += rows;
            total += sum;
            if (!pairs) {
                const float value = static_cast<float>(constant ? q.zero * sum : sum);
                std::memcpy(header, &value, 4);
            } else if (p % 2 == 0) {
                *header = static_cast<uint32_t>(sum) & 0xffff;
            } else {
                *(header - rows) |= static_cast<uint32_t>(sum) << 16;
            }
        }
        header += rows;
    });
    if (is_whole(q)) headers[rows] = static_cast<uint32_t>(total);
}

}  // namespace
}  // namespace penstock
