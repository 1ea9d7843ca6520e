// ggml's blocks as codes and scales: which layout holds those of each kind.
#include <stdexcept>

#include "formats/pack.h"

namespace penstock {
namespace {

struct Block {
    const char* name;
    BlockKind kind;
    int elements, bytes;
    CodeKind codes;
    int group;
    bool shift;
    uint8_t zero;
};
constexpr Block kBlocks[] = {
    {"q8_0", BlockKind::q8_0, 32, 34, CodeKind::u8, 32, false, 128},
    {"q4_0", BlockKind::q4_0, 32, 18, CodeKind::u4, 32, false, 8},
    {"q4_1", BlockKind::q4_1, 32, 20, CodeKind::u4, 32, true, 0},
    {"q5_0", BlockKind::q5_0, 32, 22, CodeKind::u5, 32, false, 16},
    {"q5_1", BlockKind::q5_1, 32, 24, CodeKind::u5, 32, true, 0},
    {"iq4_nl", BlockKind::q4_0, 32, 18, CodeKind::iq4, 32, false, 127},
    {"q2_k", BlockKind::q2_k, 256, 84, CodeKind::u2, 16, true, 0},
    {"q3_k", BlockKind::q3_k, 256, 110, CodeKind::u3, 16, false, 4},
    {"q4_k", BlockKind::q4_k, 256, 144, CodeKind::u4, 32, true, 0},
    {"q5_k", BlockKind::q5_k, 256, 176, CodeKind::u5, 32, true, 0},
    {"q6_k", BlockKind::q6_k, 256, 210, CodeKind::u6, 16, false, 32},
    {"iq4_xs", BlockKind::iq4_xs, 256, 136, CodeKind::iq4, 32, false, 127},
};

Quant quant_of(const Block& f, int64_t k) {
    Quant q;
    q.codes = f.codes;
    q.scales = f.elements == 256 ? ScaleKind::super : ScaleKind::f16;
    q.zeros = f.shift ? ZeroKind::shift : ZeroKind::constant;
    q.zero = f.zero;
    q.group = f.group;
    q.per_chunk = kChunkInputs / f.group;
    q.inputs = k;
    return q;
}

void check(const BlockRows& r, int64_t elements, int64_t bytes) {
    if (r.n <= 0 || r.k <= 0 || r.k % elements != 0 || r.bytes != r.k / elements * bytes)
        throw std::invalid_argument(r.format + ": the rows are no whole number of blocks");
}

}  // namespace

QuantSource block_source(const BlockRows& r, const PackMath& math) {
    for (const Block& f : kBlocks) {
        if (r.format != f.name) continue;
        check(r, f.elements, f.bytes);
        const auto read = [r, &f, &math](int64_t row, int rows, int64_t first, int64_t groups, TileChunk& out) {
            const TilePlaces at(r.blocks + row * r.ld + first * f.group / f.elements * f.bytes, r.ld, rows);
            math.blocks(f.kind, at.row, groups, out);
        };
        return {quant_of(f, r.k), {}, read};
    }
    throw std::invalid_argument("no layout for blocks of the format '" + r.format + "'");
}

}  // namespace penstock
