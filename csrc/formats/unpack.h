// Codes that quantising tools store by columns, turned into rows. The same bits, another order; nothing is rounded.
#pragma once
#include <cstdint>

namespace penstock {

// Words in rows `stride` bytes apart, at any address.
struct Words {
    const uint8_t* data;
    int64_t rows, columns, stride;
};

// out[column][row] = words[row][column] ^ flip; rows of `out` are `stride` bytes apart.
void transpose_words(const Words& words, uint32_t flip, uint8_t* out, int64_t stride);

// AWQ's GEMM layout: a row of words is an input, a word has eight outputs, whose nibbles are in the order 0 2 4 6 1 3 5
// 7 from the lowest. Row 8 c + i of `out` becomes output i of column c, two inputs a byte, the first one low. An even
// number of rows.
void unpack_awq(const Words& words, uint8_t* out, int64_t stride);

}  // namespace penstock
