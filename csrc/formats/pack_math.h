// What packing does to every number of a file, compiled once for each instruction set from one source
// (formats/pack_impl.h). All give the same bytes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "formats/matrix.h"

namespace penstock {

struct TileChunk;  // formats/pack.h

enum class BlockKind : uint8_t { q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_xs };

// 32-bit words of eight 4-bit codes. awq [k, n / 8]: of eight outputs, in the order 0 2 4 6 1 3 5 7; gptq [k / 8, n]:
// of eight inputs in order, the first one lowest.
enum class WordLayout : uint8_t { awq, gptq };

// Where the 16 rows of a tile are; those that the matrix does not have may be any that it has.
using TileRows = const uint8_t* const*;

struct PackMath {
    // 16 rows of plain numbers of `size` bytes as lines of `together` inputs; the first `whole` inputs, a multiple of
    // 16.
    void (*plain)(TileRows rows, int size, int together, int64_t whole, std::byte* tile);
    // `groups` blocks of each row that begin there: codes and scales.
    void (*blocks)(BlockKind kind, TileRows rows, int64_t groups, TileChunk& out);
    // Codes k .. k + n - 1 of each row, bytes (each ^ `flip`) or nibbles, as words; zeros up to `padded`.
    void (*codes)(bool nibbles, uint8_t flip, TileRows rows, int64_t k, int64_t n, int64_t padded, uint32_t* words);
    // Inputs k .. k + n - 1, n a multiple of eight, of 16 outputs from words of eight 4-bit codes (formats/pack.h), the
    // first of which is at `words` for input 0.
    void (*words)(WordLayout layout, const uint8_t* words, int64_t stride, int64_t k, int64_t n, uint32_t* out);
    // A chunk of `groups` as formats/quant.h says, from its codes, filled up to whole units, and scales.
    void (*chunk)(const Quant& q, const ChunkLayout& at, const TileChunk& piece, int64_t groups, int64_t inputs,
                  std::byte* chunk);
};

extern const PackMath kPackMathGeneric;
#if defined(__x86_64__)
extern const PackMath kPackMathAvx2;
extern const PackMath kPackMathAvx512;
#endif

inline const PackMath& pack_math([[maybe_unused]] std::string_view isa) {
#if defined(__x86_64__)
    if (isa == "avx512" || isa == "amx") return kPackMathAvx512;
    if (isa == "avx2") return kPackMathAvx2;
#endif
    return kPackMathGeneric;
}

}  // namespace penstock
