// Packing: every instruction set gives the bytes of the generic one; AWQ's and GPTQ's words those of the rows that they
// are, whatever the tiles read side by side.
#include "formats/pack.h"
#include "support.h"

using namespace penstock;
using namespace penstock::test;

namespace {

Buffer<uint8_t> random_bytes(int64_t count, uint64_t seed) {
    Random random(seed);
    Buffer<uint8_t> bytes(count);
    for (int64_t i = 0; i < count; i++) bytes[i] = static_cast<uint8_t>(random.next() >> 20);
    return bytes;
}

using Packed = Buffer<std::byte>;

void same(const Packed& a, const Packed& b, const std::string& what) {
    CHECK(a.size() == b.size(), "%s: %ld and %ld bytes", what.c_str(), a.size(), b.size());
    for (int64_t i = 0; i < a.size(); i++) CHECK(a[i] == b[i], "%s: byte %ld of %ld", what.c_str(), i, a.size());
}

Packed packed(const QuantSource& source, int64_t n, const PackMath& math, int together) {
    const int64_t tiles = (n + kTile - 1) / kTile, cut = tiles / 3;
    Packed out(tiles * quant_tile_bytes(source.quant), std::byte{0xff});
    pack_quantised(source.quant, n, source.read, out.data(), 0, cut, math, together);
    pack_quantised(source.quant, n, source.read, out.data(), cut, tiles, math, together);
    return out;
}

Packed packed(Format format, const uint8_t* rows, int64_t n, int64_t k, int64_t ld, const PackMath& math) {
    Packed out(matrix_bytes(format, n, k), std::byte{0xff});
    pack_tiles(format, rows, n, k, ld, out.data(), 0, (n + kTile - 1) / kTile, math);
    return out;
}

void check_plain(const PackMath& math, const std::string& isa) {
    for (const Format format : {Format::f32, Format::f16, Format::bf16})
        for (const int64_t n : {1, 16, 37})
            for (const int64_t k : {1, 7, 16, 31, 32, 100, 272}) {
                const int64_t ld = k + 3;
                const Buffer<uint8_t> rows = random_bytes(n * ld * 4, static_cast<uint64_t>(n * k));
                same(packed(format, rows.data(), n, k, ld, math),
                     packed(format, rows.data(), n, k, ld, kPackMathGeneric),
                     isa + " format " + std::to_string(static_cast<int>(format)) + " k " + std::to_string(k));
            }
}

struct Block {
    const char* name;
    int64_t elements, bytes;
};
constexpr Block kBlocks[] = {{"q8_0", 32, 34},   {"q4_0", 32, 18},   {"q4_1", 32, 20},   {"q5_0", 32, 22},
                             {"q5_1", 32, 24},   {"iq4_nl", 32, 18}, {"q2_k", 256, 84},  {"q3_k", 256, 110},
                             {"q4_k", 256, 144}, {"q5_k", 256, 176}, {"q6_k", 256, 210}, {"iq4_xs", 256, 136}};

void check_blocks(const PackMath& math, const std::string& isa) {
    for (const Block& b : kBlocks)
        for (const int64_t n : {1, 16, 37})
            for (const int64_t count : {1, 3, 9}) {
                const int64_t k = count * b.elements, ld = count * b.bytes;
                const Buffer<uint8_t> rows = random_bytes(n * ld, static_cast<uint64_t>(n * k));
                const BlockRows from{b.name, n, k, rows.data(), ld, ld};
                same(packed(block_source(from, math), n, math, 1), packed(block_source(from), n, kPackMathGeneric, 2),
                     isa + " " + b.name);
            }
}

void check_codes(const PackMath& math, const std::string& isa) {
    for (const char* format : {"int8", "int4", "fp8"})
        for (const int64_t group : {8, 12, 31, 128})
            for (const int64_t k : {130, 384}) {
                const int64_t n = 37, groups = (k + group - 1) / group, ld = format[3] == '4' ? k / 2 : k;
                const Buffer<uint8_t> codes = random_bytes(n * ld, static_cast<uint64_t>(group * k));
                const Buffer<float> scales = random_floats(n * groups, 3, 0.01f, 0.02f);
                const CodedRows from{format, n,       k, codes.data(), ld,      scales.data(),
                                     groups, nullptr, 0, group,        nullptr, false};
                same(packed(coded_source(from, math), n, math, 1), packed(coded_source(from), n, kPackMathGeneric, 1),
                     isa + " " + format + std::to_string(group));
            }
}

// Words [rows, columns] of codes that code(row, column, nibble) gives.
template <class Code>
Buffer<uint32_t> words_of(int64_t rows, int64_t columns, Code code) {
    Buffer<uint32_t> words(rows * columns, 0);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            for (int b = 0; b < 8; b++) words[i * columns + j] |= static_cast<uint32_t>(code(i, j, b)) << 4 * b;
    return words;
}

const uint8_t* bytes(const Buffer<uint32_t>& words) { return reinterpret_cast<const uint8_t*>(words.data()); }

void check_words(WordLayout layout, int64_t n, int64_t k, int64_t group, bool one_zero, int plus,
                 const PackMath& math) {
    constexpr int kOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    const bool awq = layout == WordLayout::awq;
    const int64_t groups = k / group;
    const Buffer<uint8_t> codes = random_bytes(n * k, 5);  // nibbles [n, k]
    const auto code = [&](int64_t row, int64_t input) { return codes[row * k + input] & 15; };
    const auto zero = [&](int64_t row, int64_t g) { return one_zero ? 7 : static_cast<int>((row * 3 + g) % 16); };
    Buffer<uint8_t> rows(n * k / 2);
    Buffer<float> scales(n * groups), zeros(n * groups);
    Buffer<uint16_t> halves(n * groups);
    for (int64_t row = 0; row < n; row++) {
        for (int64_t i = 0; i < k; i += 2)
            rows[row * k / 2 + i / 2] = static_cast<uint8_t>(code(row, i) | code(row, i + 1) << 4);
        for (int64_t g = 0; g < groups; g++) {
            const float scale = f16_round(0.01f + 0.001f * static_cast<float>((row + g) % 50));
            scales[row * groups + g] = scale;
            halves[g * n + row] = to_half(scale);
            zeros[row * groups + g] = static_cast<float>((zero(row, g) + plus) & 15);
        }
    }
    const auto out_of = [&](int b) { return awq ? kOrder[b] : b; };
    const Buffer<uint32_t> words =
        awq ? words_of(k, n / 8, [&](int64_t i, int64_t j, int b) { return code(8 * j + out_of(b), i); })
            : words_of(k / 8, n, [&](int64_t i, int64_t j, int b) { return code(j, 8 * i + b); });
    const Buffer<uint32_t> points =
        words_of(groups, n / 8, [&](int64_t g, int64_t j, int b) { return zero(8 * j + out_of(b), g); });
    const WordRows from{layout,
                        n,
                        k,
                        bytes(words),
                        (awq ? n / 8 : n) * 4,
                        bytes(points),
                        n / 8 * 4,
                        reinterpret_cast<const uint8_t*>(halves.data()),
                        n * 2,
                        group,
                        plus};
    const CodedRows plain{"int4",       n,      k,     rows.data(), k / 2, scales.data(), groups,
                          zeros.data(), groups, group, nullptr,     false};
    const QuantSource source = word_source(from, math);
    const std::string what = std::string(awq ? "awq " : "gptq ") + std::to_string(n) + " x " + std::to_string(k);
    CHECK((source.quant.zeros == ZeroKind::constant) == one_zero, "%s: zero points", what.c_str());
    const Packed expected = packed(coded_source(plain), n, kPackMathGeneric, 1);
    same(packed(source, n, math, source.together), expected, what);
    same(packed(source, n, math, 3), expected, what + " three tiles together");
}

}  // namespace

int main() {
    for (const std::string& isa : possible_isas()) {
        const PackMath& math = pack_math(isa);
        check_plain(math, isa);
        check_blocks(math, isa);
        check_codes(math, isa);
        for (const WordLayout layout : {WordLayout::awq, WordLayout::gptq})
            for (const int64_t n : {16, 48, 176})
                for (const int64_t group : {8, 32, 128})
                    for (const bool one_zero : {false, true})
                        for (const int plus : {0, 1}) check_words(layout, n, 384, group, one_zero, plus, math);
    }
    std::printf("pack: ok\n");
    return 0;
}
