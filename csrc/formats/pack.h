// Packing quantised weights: a source gives the codes and scales of a piece of a tile, whatever file they come from,
// and this writes them as formats/quant.h says.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "formats/matrix.h"
#include "formats/pack_math.h"

namespace penstock {

// Pack rows of `src` ([n, k] in the format's own element type, row stride `ld` elements) for tiles [tile0, tile1).
// dst: the whole matrix, where tile t lies at t * tile_bytes.
void pack_tiles(Format format, const void* src, int64_t n, int64_t k, int64_t ld, std::byte* dst, int64_t tile0,
                int64_t tile1, const PackMath& math = kPackMathGeneric);

// The groups of one chunk of a tile. Lane c is row c of the tile; those beyond the rows asked for may hold anything.
struct TileChunk {
    uint32_t* words;                       // [padded inputs / 4][16] four codes each, the first in the lowest byte
    uint16_t d[kTile], m[kTile];           // f16, with ScaleKind::super
    uint32_t scales[kChunkGroups][kTile];  // the bits of the number, as ScaleKind says
    uint32_t zeros[kChunkGroups][kTile];   // as ZeroKind says
    // The source's own, kept from chunk to chunk: words of whole rows, and the row that they begin with.
    std::vector<uint32_t> turned;
    int64_t turned_row = -1;
};
// Rows row .. row + rows - 1, at most 16. Must be callable from several threads at once.
using ReadTile = std::function<void(int64_t row, int rows, int64_t first_group, int64_t groups, TileChunk& out)>;

// Tiles [tile0, tile1) of the matrix at dst, of n rows. The chunks of `together` tiles are read side by side: for
// sources in which neighbouring rows share a line of the cache.
void pack_quantised(const Quant& q, int64_t n, const ReadTile& read, std::byte* dst, int64_t tile0, int64_t tile1,
                    const PackMath& math = kPackMathGeneric, int together = 1);

// A weight to pack: how it will lie, and where it comes from. What `read` points to must live until it is packed.
struct QuantSource {
    Quant quant;
    std::vector<int32_t> order;  // to be kept, and quant.order to point to it; empty: none
    ReadTile read;
    int together = 1;
};

// int8, int4 and fp8 codes with scales (and zero points) in float32: w = (code - zero) * scale.
struct CodedRows {
    std::string format;
    int64_t n, k;
    const uint8_t* codes;  // [n, bytes of a row]; int4: the low nibble first
    int64_t codes_ld;
    const float* scales;  // [n, groups]
    int64_t scales_ld;
    const float* zeros;  // the same, or null
    int64_t zeros_ld;
    int64_t group;
    const int32_t* g_idx;  // [k] group of each input, or null
    bool one_scale;        // inputs quantised with one scale a row
};
// Throws std::invalid_argument.
QuantSource coded_source(const CodedRows& rows, const PackMath& math = kPackMathGeneric);

// ggml's blocks, as they are in a file. Throws std::invalid_argument for a format without a layout here, or sizes that
// do not fit.
struct BlockRows {
    std::string format;
    int64_t n, k;
    const uint8_t* blocks;  // [n, bytes of a row]
    int64_t bytes, ld;
};
QuantSource block_source(const BlockRows& rows, const PackMath& math = kPackMathGeneric);

// AWQ's and GPTQ's 4-bit codes as they are in a file, outputs along its rows; n a multiple of 16, groups of a multiple
// of eight inputs that fill the rows. w = (code - zero) * scale.
struct WordRows {
    WordLayout layout;
    int64_t n, k;
    const uint8_t* words;  // WordLayout
    int64_t stride;        // bytes
    const uint8_t* zeros;  // [groups, n / 8] words along the outputs, gptq's in order; null: 8
    int64_t zeros_stride;
    const uint8_t* scales;  // [groups, n] float16
    int64_t scales_stride;
    int64_t group;
    int plus;  // added to a zero point, modulo 16
};
// Throws std::invalid_argument.
QuantSource word_source(const WordRows& rows, const PackMath& math = kPackMathGeneric);

// The rows of a tile where they lie, `ld` bytes apart; for those beyond `count`, the last.
struct TilePlaces {
    const uint8_t* row[kTile];

    TilePlaces(const uint8_t* data, int64_t ld, int count) {
        for (int i = 0; i < kTile; i++) row[i] = data + (i < count ? i : count - 1) * ld;
    }
};

// Inputs that a chunk of groups of this many takes.
inline int32_t groups_of_chunk(const Quant& q) {
    const int64_t n = q.padded() >= kChunkInputs ? 1 : kChunkInputs / q.padded();
    return static_cast<int32_t>(n < kChunkGroups ? n : kChunkGroups);
}

// Whether a float is a finite float16 exactly; which one.
bool is_half(float x);
uint16_t to_half(float x);

}  // namespace penstock
