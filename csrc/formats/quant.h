// How a quantised weight lies in memory: tiles of 16 output rows, as of all formats (matrix.h). A tile is a stream of
// chunks, each with what scales its inputs, then their codes:
//
//   chunk   [d][m]  [scales of its groups][zeros of its groups]  [codes]         each part from a line of 64 bytes
//            super   16 lanes a group                             lines of 64 bytes
//
// A line of codes is 16 lanes of four bytes, and lane c byte j belongs to output row c and input i + j. Codes of fewer
// than eight bits share bytes: in a line of nibbles the low ones are the inputs i .. i + 3, the high ones i + 4 .. i +
// 7; crumbs (2 bits) and single bits go on in the same way. Five, six and three bits are a line of nibbles or crumbs
// with the missing bits in lines behind them.
//
// A group is the inputs that share a scale. Its codes are filled up with zeros to a multiple of eight.
#pragma once
#include <cstdint>

namespace penstock {

enum class CodeKind : uint8_t { u8, u4, u2, u5, u6, u3, iq4, e4m3 };
// f16 or f32 numbers a group, or whole numbers a group times an f16 of the chunk.
enum class ScaleKind : uint8_t { f16, f32, super };
// What is taken off: `zero` of all codes, a zero point a group before scaling (u8, f16, f32), or added after it:
// `shift` as wide as the scale, and with `super` u8 times -m.
enum class ZeroKind : uint8_t { constant, u8, f16, f32, shift };

constexpr int kStepInputs = 256;
// The sum of a part's inputs as such; or ready for weights of one kind: times -zero where that is constant, and with
// whole_minima() those of two parts as 16 bits each in the first one's word.
enum class SumForm : uint8_t { plain, ready };

struct Quant {
    CodeKind codes = CodeKind::u8;
    ScaleKind scales = ScaleKind::f32;
    ZeroKind zeros = ZeroKind::constant;
    uint8_t zero = 0;
    int32_t group = 1;
    int32_t per_chunk = 1;           // groups of a chunk
    bool one_scale = false;          // quantised inputs have one scale a row, else one a step (below)
    int64_t inputs = 0;              // packed inputs, in groups
    const int32_t* order = nullptr;  // [inputs] which input each is, -1: none; null: as they come

    int64_t groups() const { return (inputs + group - 1) / group; }
    // Inputs of group g, without and with those that fill it up.
    int64_t inputs_of(int64_t g) const { return g * group + group <= inputs ? group : inputs - g * group; }
    int64_t padded_of(int64_t g) const { return (inputs_of(g) + 7) / 8 * 8; }
    int64_t padded() const { return (group + 7) / 8 * 8; }
    // Filled-up inputs of the chunk that begins with group g.
    int64_t chunk_inputs(int64_t g) const {
        const int64_t last = (g + per_chunk < groups() ? g + per_chunk : groups()) - 1;
        return (last - g) * padded() + padded_of(last);
    }
    // Quantised inputs: a part, which is a group or kStepInputs of a longer one, has one integer sum; a step, as many
    // parts of a chunk as fit into kStepInputs, has one scale.
    int64_t part() const { return padded() < kStepInputs ? padded() : kStepInputs; }
    int64_t parts_in_step() const { return kStepInputs / part(); }
    // Words of one row of a panel (kernels/table.h) for so many inputs of a chunk: four inputs each, one a part, one a
    // step.
    int64_t panel_words(int64_t filled) const {
        const int64_t parts = (filled + part() - 1) / part();
        return filled / 4 + parts + (parts + parts_in_step() - 1) / parts_in_step();
    }
    int64_t row_words() const {
        const int64_t before = (groups() - 1) / per_chunk;  // whole chunks
        return before * panel_words(per_chunk * padded()) + panel_words(chunk_inputs(before * per_chunk));
    }
    // Whether minima are whole numbers of the chunk.
    bool whole_minima() const { return scales == ScaleKind::super && zeros == ZeroKind::shift; }
    // Whether the sums that quantised inputs carry can be made ready for both (SumForm).
    bool same_sums(const Quant& o) const {
        const bool constant = zeros == ZeroKind::constant;
        return constant == (o.zeros == ZeroKind::constant) && (!constant || zero == o.zero) &&
               whole_minima() == o.whole_minima();
    }
    bool same_inputs(const Quant& o) const {
        bool same = group == o.group && one_scale == o.one_scale && inputs == o.inputs &&
                    (order == nullptr) == (o.order == nullptr);
        for (int64_t i = 0; same && order != nullptr && i < inputs; i++) same = order[i] == o.order[i];
        return same;
    }
};

constexpr int kLineBytes = 64;
constexpr int kChunkInputs = 256;  // no chunk of several groups has more
constexpr int kChunkGroups = 16;   // no chunk has more

// Inputs and lines of the smallest piece that is whole.
constexpr int unit_inputs(CodeKind k) {
    switch (k) {
        case CodeKind::u8:
        case CodeKind::e4m3:
            return 4;
        case CodeKind::u4:
        case CodeKind::iq4:
            return 8;
        case CodeKind::u2:
        case CodeKind::u6:
            return 16;
        case CodeKind::u5:
        case CodeKind::u3:
            return 32;
    }
    return 4;
}
constexpr int unit_lines(CodeKind k) { return k == CodeKind::u5 ? 5 : k == CodeKind::u6 || k == CodeKind::u3 ? 3 : 1; }
// Kernels of every instruction set call this one and the next: a shared copy could be one that this CPU cannot run.
[[gnu::always_inline]] inline int64_t code_bytes(CodeKind k, int64_t inputs) {
    return (inputs + unit_inputs(k) - 1) / unit_inputs(k) * unit_lines(k) * kLineBytes;
}

inline int64_t round_to_line(int64_t n) { return (n + kLineBytes - 1) / kLineBytes * kLineBytes; }
// Where the parts of a chunk begin.
struct ChunkLayout {
    int64_t scales, zeros, codes, bytes;
    [[gnu::always_inline]] explicit ChunkLayout(const Quant& q) {
        const bool super = q.scales == ScaleKind::super, shift = q.zeros == ZeroKind::shift;
        const int64_t scale = super ? 1 : q.scales == ScaleKind::f16 ? 2 : 4;
        int64_t zero = shift ? scale : 0;
        if (q.zeros == ZeroKind::u8) zero = 1;
        if (q.zeros == ZeroKind::f16) zero = 2;
        if (q.zeros == ZeroKind::f32) zero = 4;
        scales = super ? (shift ? 64 : 32) : 0;
        zeros = scales + q.per_chunk * 16 * scale;
        codes = round_to_line(zeros + q.per_chunk * 16 * zero);
        bytes = codes + code_bytes(q.codes, q.per_chunk * q.padded());
    }
};

// Bytes of a tile.
inline int64_t quant_tile_bytes(const Quant& q) {
    const ChunkLayout c(q);
    const int64_t chunks = (q.groups() + q.per_chunk - 1) / q.per_chunk, last = (chunks - 1) * q.per_chunk;
    const int64_t rest = (q.groups() - 1 - last) * q.padded() + q.padded_of(q.groups() - 1);
    return (chunks - 1) * c.bytes + c.codes + code_bytes(q.codes, rest);
}

}  // namespace penstock
