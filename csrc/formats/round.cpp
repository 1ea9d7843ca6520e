// Groups of plain rows, rounded, as what pack.h packs.
#include "formats/round.h"

#include <cstring>
#include <memory>
#include <stdexcept>

namespace penstock {
namespace {

void need(bool ok, const char* message) {
    if (!ok) throw std::invalid_argument(message);
}

int64_t width_of(Format format) { return format == Format::f32 ? 4 : 2; }

struct Reader {
    PlainRows r;
    Quant q;
    const RoundMath* math;
    std::atomic<float>* largest;

    void operator()(int64_t row, int rows, int64_t first, int64_t groups, TileChunk& out) const {
        // A group that is a whole row can be longer than a stack should hold.
        alignas(64) float few[kChunkInputs * kTile];
        std::unique_ptr<float[]> many;
        const int64_t padded = q.padded();
        if (padded > kChunkInputs) many = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(padded * kTile));
        float* w = many != nullptr ? many.get() : few;
        const uint8_t* from[kTile];
        for (int lane = 0; lane < kTile; lane++)
            from[lane] = static_cast<const uint8_t*>(r.data) +
                         (row + (lane < rows ? lane : rows - 1)) * r.ld * width_of(r.format);
        float most = 0;
        for (int64_t g = 0; g < groups; g++) {
            RoundedGroup made;
            made.words = out.words + g * padded / 4 * kTile;
            load(from, (first + g) * q.group, w);
            (r.bits == 8 ? math->int8 : math->int4)(w, padded, q.scales == ScaleKind::f16, made);
            for (int lane = 0; lane < kTile; lane++) {
                const float size = __builtin_fabsf(made.scales[lane]);
                if (lane < rows && size > most) most = size;
                out.scales[g][lane] = number(made.scales[lane]);
                out.zeros[g][lane] = number(made.zeros[lane]);
            }
        }
        for (float seen = largest->load(std::memory_order_relaxed);
             most > seen && !largest->compare_exchange_weak(seen, most, std::memory_order_relaxed);) {
        }
    }

    uint32_t number(float x) const { return q.scales == ScaleKind::f16 ? to_half(x) : __builtin_bit_cast(uint32_t, x); }

    // A group's inputs, and zeros up to a multiple of eight.
    void load(const uint8_t* const* from, int64_t k, float* w) const {
        const int64_t whole = q.group / 8 * 8, width = width_of(r.format);
        math->load(r.format, from, k, whole, w);
        if (whole == q.group) return;
        uint8_t ends[kTile][8 * 4] = {};
        const uint8_t* rows[kTile];
        for (int lane = 0; lane < kTile; lane++) {
            std::memcpy(ends[lane], from[lane] + (k + whole) * width, static_cast<size_t>((q.group - whole) * width));
            rows[lane] = ends[lane];
        }
        math->load(r.format, rows, 0, 8, w + whole * kTile);
    }
};

}  // namespace

QuantSource rounded_source(const PlainRows& r, const RoundMath& math, bool half, std::atomic<float>& largest) {
    need(r.format != Format::quantised, "only plain numbers can be rounded");
    need(r.bits == 8 || r.bits == 4, "weights are rounded to 8 or 4 bits");
    need(r.n > 0 && r.k > 0 && r.k < int64_t{1} << 31 && r.group > 0 && r.k % r.group == 0, "sizes do not fit");
    need(r.group % 8 == 0 || (r.bits == 8 && r.group == r.k), "a group must be a multiple of 8 inputs");
    Quant q;
    q.codes = r.bits == 8 ? CodeKind::u8 : CodeKind::u4;
    q.scales = half ? ScaleKind::f16 : ScaleKind::f32;
    q.zeros = r.bits == 8 ? ZeroKind::constant : half ? ZeroKind::f16 : ZeroKind::f32;
    q.zero = r.bits == 8 ? 128 : 0;
    q.group = static_cast<int32_t>(r.group);
    q.inputs = r.k;
    q.per_chunk = groups_of_chunk(q);
    largest.store(0);
    return {q, {}, Reader{r, q, &math, &largest}};
}

}  // namespace penstock
