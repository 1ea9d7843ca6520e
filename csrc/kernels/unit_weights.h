// A step of quantised weights as a matrix unit wants it: codes as bytes, and their scales as floats. Whole bytes are
// used where they lie; what is unpacked becomes signed bytes wherever zeros are constant, so that no sums of inputs are
// needed.
#pragma once
#include "kernels/unit_panels.h"

namespace penstock {
namespace {

constexpr int kStepLines = kStepInputs / 4, kUnitTiles = 2, kStepParts = kStepInputs / 8;

// What a step of up to two tiles becomes. Where scales are whole numbers they are multiplied with the codes, which
// takes two bytes: plane 0 has the low seven bits, plane 1 the rest.
struct alignas(64) StepWeights {
    const uint8_t* at[2][kUnitTiles];                       // the lines: these, or where they lie in memory
    uint8_t lines[2][kUnitTiles][kStepLines * kLineBytes];  // [plane][tile][four inputs of 16 outputs]
    float scales[kUnitTiles][kStepParts][kTile];            // super: only one, of the chunk
    float shifts[kUnitTiles][kStepParts][kTile];
    int32_t minima[kUnitTiles][kStepParts / 2][kTile];  // of two parts, 16 bits each; and the scale of all is shifts[0]
};

inline Codes minus(Codes a, uint8_t b) { return {_mm512_sub_epi8(a.v, _mm512_set1_epi8(static_cast<char>(b)))}; }

template <CodeKind kKind, int kLine = 0>
inline __attribute__((always_inline)) void signed_unit(const std::byte* unit, uint8_t zero, uint8_t* out) {
    store_codes(out + kLine * kLineBytes, minus(codes_of<kKind, kLine>(unit), zero));
    if constexpr (kLine + 1 < unit_inputs(kKind) / 4) signed_unit<kKind, kLine + 1>(unit, zero, out);
}
// The lines of n inputs, less `zero`; and what is asked for meanwhile, line by line.
template <CodeKind kKind>
void signed_lines(const std::byte* codes, int64_t n, uint8_t zero, uint8_t* out, const std::byte* early) {
    constexpr int kUnit = unit_inputs(kKind), kBytes = unit_lines(kKind) * kLineBytes;
    for (int64_t i = 0; i < n; i += kUnit, out += kUnit / 4 * kLineBytes, codes += kBytes, early += kBytes) {
#pragma GCC unroll 8
        for (int j = 0; j < kBytes; j += kLineBytes) prefetch_near(early + j);
        signed_unit<kKind>(codes, zero, out);
    }
}
void signed_codes(CodeKind kind, const std::byte* codes, int64_t n, uint8_t zero, uint8_t* out,
                  const std::byte* early) {
    switch (kind) {
        case CodeKind::u8:
        case CodeKind::e4m3:  // never: meets floats only
            return signed_lines<CodeKind::u8>(codes, n, zero, out, early);
        case CodeKind::u4:
            return signed_lines<CodeKind::u4>(codes, n, zero, out, early);
        case CodeKind::iq4:
            return signed_lines<CodeKind::iq4>(codes, n, zero, out, early);
        case CodeKind::u2:
            return signed_lines<CodeKind::u2>(codes, n, zero, out, early);
        case CodeKind::u6:
            return signed_lines<CodeKind::u6>(codes, n, zero, out, early);
        case CodeKind::u5:
            return signed_lines<CodeKind::u5>(codes, n, zero, out, early);
        case CodeKind::u3:
            return signed_lines<CodeKind::u3>(codes, n, zero, out, early);
    }
}

// Lines of signed codes times whole-number scales [part][16], of 4 * `lines_of_part` inputs each, in two planes.
void scale_codes(const uint8_t* codes, const std::byte* scales, bool unsigned_scales, int64_t lines_of_part,
                 int64_t lines, uint8_t* low, uint8_t* high) {
    const __m512i bits = _mm512_set1_epi16(127), bytes = _mm512_set1_epi16(255);
    for (int64_t from = 0; from < lines; from += lines_of_part, scales += kTile) {
        const I scale = unsigned_scales ? load_u8_i(scales) : load_i8_i(scales);
        const __m512i s =
            _mm512_or_si512(_mm512_and_si512(scale.v, _mm512_set1_epi32(0xffff)), _mm512_slli_epi32(scale.v, 16));
        const int64_t to = from + lines_of_part < lines ? from + lines_of_part : lines;
        for (int64_t i = from; i < to; i++) {
            const __m512i c = load_codes(codes + i * kLineBytes).v;
            const __m512i even = _mm512_mullo_epi16(_mm512_srai_epi16(_mm512_slli_epi16(c, 8), 8), s);
            const __m512i odd = _mm512_mullo_epi16(_mm512_srai_epi16(c, 8), s);
            const __m512i l =
                _mm512_or_si512(_mm512_and_si512(even, bits), _mm512_slli_epi16(_mm512_and_si512(odd, bits), 8));
            const __m512i h = _mm512_or_si512(_mm512_and_si512(_mm512_srai_epi16(even, 7), bytes),
                                              _mm512_slli_epi16(_mm512_srai_epi16(odd, 7), 8));
            store_codes(low + i * kLineBytes, {l});
            store_codes(high + i * kLineBytes, {h});
        }
    }
}

// Fills a step's weights from the chunks of tiles `tile_bytes` apart; `early` is as far behind.
class StepReader {
  public:
    explicit StepReader(const Matrix& m) : q_(m.quant), at_(q_), tile_bytes_(m.tile_bytes) {}

    int planes() const { return q_.scales == ScaleKind::super ? 2 : 1; }

    // Lines are filled up to whole blocks with zeros.
    void read(const UnitStep& s, const std::byte* first, int tiles, int64_t early, StepWeights& to) const {
        for (int p = 0; p < planes(); p++)
            for (int t = 0; t < kUnitTiles; t++) to.at[p][t] = to.lines[p][t];
        if (q_.codes == CodeKind::u8 && s.inputs % 64 == 0)
            find(s, first, tiles, early, to);
        else
            copy(s, first, tiles, early, to);
    }

  private:
    const Quant& q_;
    const ChunkLayout at_;
    const int64_t tile_bytes_;

    void find(const UnitStep& s, const std::byte* first, int tiles, int64_t early, StepWeights& to) const {
        for (int t = 0; t < tiles; t++) {
            const std::byte* chunk = first + t * tile_bytes_;
            const std::byte* codes = chunk + at_.codes + code_bytes(q_.codes, s.from);
            to.at[0][t] = reinterpret_cast<const uint8_t*>(codes);
            plain_scales(s, chunk, t, to);
            for (int64_t i = 0; i < s.inputs / 4; i++) prefetch_near(codes + early + i * kLineBytes);
        }
        for (int t = tiles; t < kUnitTiles; t++) to.at[0][t] = to.at[0][0];
    }

    void copy(const UnitStep& s, const std::byte* first, int tiles, int64_t early, StepWeights& to) const {
        const bool less = q_.zeros == ZeroKind::constant && q_.codes != CodeKind::u8;
        const int64_t lines = s.inputs / 4, all = blocks_of(s.inputs) * kBlockWords;
        for (int t = 0; t < tiles; t++) {
            const std::byte* chunk = first + t * tile_bytes_;
            const std::byte* codes = chunk + at_.codes + code_bytes(q_.codes, s.from);
            alignas(64) uint8_t raw[(kStepLines + 8) * kLineBytes];
            uint8_t* plain = planes() == 2 ? raw : to.lines[0][t];
            signed_codes(q_.codes, codes, s.inputs, less ? q_.zero : 0, plain, codes + early);
            if (planes() == 2) {
                scale_codes(raw, chunk + at_.scales, super_shift(q_.codes), q_.part() / 4, lines, to.lines[0][t],
                            to.lines[1][t]);
                super_scales(s, chunk, t, to);
            } else {
                plain_scales(s, chunk, t, to);
            }
            for (int p = 0; p < planes(); p++)
                std::memset(to.lines[p][t] + lines * kLineBytes, 0, static_cast<size_t>((all - lines) * kLineBytes));
        }
    }

    void plain_scales(const UnitStep& s, const std::byte* chunk, int t, StepWeights& to) const {
        const bool half = q_.scales == ScaleKind::f16, one = q_.per_chunk == 1;
        for (int64_t p = 0; p < s.parts; p++) {
            const F scale = scale_at(chunk + at_.scales, half, one ? 0 : p);
            store(to.scales[t][p], scale);
            if (q_.zeros != ZeroKind::constant)
                store(to.shifts[t][p], shift_at(q_, chunk + at_.zeros, one ? 0 : p, scale));
        }
    }
    void super_scales(const UnitStep& s, const std::byte* chunk, int t, StepWeights& to) const {
        store(to.scales[t][0], scale_at(chunk, true, 0));
        if (!q_.whole_minima()) return;
        store(to.shifts[t][0], scale_at(chunk, true, 1));
        const std::byte* z = chunk + at_.zeros;
        for (int64_t p = 0; p < s.parts; p += 2, z += 2 * kTile)
            store_i(to.minima[t][p / 2], pair(load_u8_i(z), load_u8_i(z + kTile)));
    }
};

}  // namespace
}  // namespace penstock
