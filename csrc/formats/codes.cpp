// int8, int4 and fp8: which layout holds their scales and zero points exactly, and their rows piece by piece.
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "formats/pack.h"

namespace penstock {
namespace {

void need(bool ok, const char* message) {
    if (!ok) throw std::invalid_argument(message);
}

// What the scales and zero points of a matrix have in common.
struct Facts {
    bool half = true;       // all scales are float16
    bool whole = true;      // all zero points are integers from 0 to 255
    bool same = true;       // all zero points are one number
    bool half_zero = true;  // all zero points are float16
};

Facts facts_of(const CodedRows& r, int64_t groups, float bias) {
    Facts f;
    const float first = r.zeros != nullptr ? r.zeros[0] + bias : bias;
    for (int64_t row = 0; row < r.n; row++) {
        const float* s = r.scales + row * r.scales_ld;
        for (int64_t g = 0; g < groups && f.half; g++) f.half = is_half(s[g]);
        if (r.zeros == nullptr) continue;
        const float* z = r.zeros + row * r.zeros_ld;
        for (int64_t g = 0; g < groups; g++) {
            const float zero = z[g] + bias;
            f.same = f.same && zero == first;
            f.whole = f.whole && zero >= 0 && zero <= 255 && zero == std::floor(zero);
            f.half_zero = f.half_zero && is_half(zero);
        }
    }
    f.whole = f.whole && first >= 0 && first <= 255 && first == std::floor(first);
    return f;
}

// Inputs sorted by group. A group with more inputs than `group` becomes several, one with fewer is filled up with -1.
// `source`: which of the given groups each packed one is.
void sort_inputs(const CodedRows& r, int64_t groups, std::vector<int32_t>& order, std::vector<int32_t>& source) {
    std::vector<std::vector<int32_t>> members(static_cast<size_t>(groups));
    for (int64_t i = 0; i < r.k; i++) {
        need(r.g_idx[i] >= 0 && r.g_idx[i] < groups, "g_idx names a group that does not exist");
        members[static_cast<size_t>(r.g_idx[i])].push_back(static_cast<int32_t>(i));
    }
    for (int64_t g = 0; g < groups; g++) {
        const auto& inputs = members[static_cast<size_t>(g)];
        for (size_t i = 0; i < inputs.size(); i++) {
            if (i % static_cast<size_t>(r.group) == 0) {
                order.resize(source.size() * static_cast<size_t>(r.group), -1);
                source.push_back(static_cast<int32_t>(g));
            }
            order.push_back(inputs[i]);
        }
    }
}

bool counts_up(const std::vector<int32_t>& order, int64_t k) {
    if (static_cast<int64_t>(order.size()) != k) return false;
    for (int64_t i = 0; i < k; i++)
        if (order[static_cast<size_t>(i)] != i) return false;
    return true;
}

using V4 = uint32_t __attribute__((vector_size(16)));
constexpr int kQuads = kTile / 4;

struct Reader {
    CodedRows r;
    Quant q;
    const PackMath* math;
    uint8_t flip;  // turns signed bytes into ones from 0
    float bias;
    std::vector<int32_t> order, source;

    void operator()(int64_t row, int rows, int64_t first, int64_t groups, TileChunk& out) const {
        for (int lane = 0; lane < rows; lane++) scales(row + lane, first, groups, lane, out);
        if (!order.empty()) turn(row, rows, out);
        for (int64_t g = 0; g < groups; g++) {
            const int64_t n = q.inputs_of(first + g), k = (first + g) * q.group, padded = q.padded_of(first + g);
            uint32_t* to = out.words + g * (q.padded() / 4) * kTile;
            if (order.empty()) {
                as_they_come(row, rows, k, n, padded, to);
            } else {
                in_order(out.turned.data(), k, n, padded, to);
            }
            if (q.codes != CodeKind::e4m3) continue;
            for (int lane = 0; lane < kTile; lane++)  // a NaN spoils its group's scale, as its product would be
                if (has_nan(to + lane, n)) out.scales[g][lane] = bits(std::nanf(""));
        }
    }

    // Inputs k .. k + n - 1 of a tile's rows, filled up with zeros.
    void as_they_come(int64_t row, int rows, int64_t k, int64_t n, int64_t padded, uint32_t* words) const {
        const TilePlaces from(r.codes + row * r.codes_ld, r.codes_ld, rows);
        math->codes(q.codes == CodeKind::u4, flip, from.row, k, n, padded, words);
    }

    // A tile's rows whole, once for all of its chunks: any of them may ask for any input.
    void turn(int64_t row, int rows, TileChunk& out) const {
        if (out.turned_row == row) return;
        out.turned.resize(static_cast<size_t>((r.k + 3) / 4 * kTile));
        as_they_come(row, rows, 0, r.k, (r.k + 3) / 4 * 4, out.turned.data());
        out.turned_row = row;
    }

    // Inputs order[k] .. order[k + n - 1], filled up with zeros.
    void in_order(const uint32_t* turned, int64_t k, int64_t n, int64_t padded, uint32_t* to) const {
        for (int64_t i = 0; i < padded; i += 4, to += kTile) {
            V4 found[kQuads] = {};
            for (int64_t j = i; j < i + 4 && j < n; j++) {
                const int64_t input = order[static_cast<size_t>(k + j)];
                if (input < 0) continue;
                for (int quad = 0; quad < kQuads; quad++) {
                    V4 w;
                    std::memcpy(&w, turned + input / 4 * kTile + 4 * quad, sizeof w);
                    found[quad] |= (w >> 8 * static_cast<uint32_t>(input % 4) & 0xff)
                                   << 8 * static_cast<uint32_t>(j - i);
                }
            }
            std::memcpy(to, found, sizeof found);
        }
    }

    static uint32_t bits(float x) { return __builtin_bit_cast(uint32_t, x); }

    void scales(int64_t row, int64_t first, int64_t groups, int lane, TileChunk& out) const {
        const bool half = q.scales == ScaleKind::f16;
        for (int64_t g = 0; g < groups; g++) {
            const int64_t at = source.empty() ? first + g : source[static_cast<size_t>(first + g)];
            const float scale = r.scales[row * r.scales_ld + at];
            out.scales[g][lane] = half ? to_half(scale) : bits(scale);
            if (q.zeros == ZeroKind::constant) continue;
            const float zero = r.zeros[row * r.zeros_ld + at] + bias;
            out.zeros[g][lane] = q.zeros == ZeroKind::u8    ? static_cast<uint32_t>(zero)
                                 : q.zeros == ZeroKind::f16 ? to_half(zero)
                                                            : bits(zero);
        }
    }

    static bool has_nan(const uint32_t* words, int64_t n) {
        uint32_t found = 0;
        for (int64_t i = 0; i < n; i += 4)  // a byte of 0x7f, its sign aside: zero when turned round
            found |= ~(((words[i / 4 * kTile] & 0x7f7f7f7f) ^ 0x7f7f7f7f) + 0x7f7f7f7f) & 0x80808080;
        return found != 0;
    }
};

}  // namespace

QuantSource coded_source(const CodedRows& r, const PackMath& math) {
    need(r.format == "int8" || r.format == "int4" || r.format == "fp8", "codes must be int8, int4 or fp8");
    need(r.n > 0 && r.k > 0 && r.k < int64_t{1} << 31 && r.group > 0 && r.group <= r.k, "sizes do not fit");
    Reader reader{r, {}, &math, 0, 0, {}, {}};
    Quant& q = reader.q;
    int64_t groups = (r.k + r.group - 1) / r.group;
    const bool int8 = r.format == "int8";
    q.codes = int8 ? CodeKind::u8 : r.format == "int4" ? CodeKind::u4 : CodeKind::e4m3;
    reader.flip = int8 ? 0x80 : 0;
    reader.bias = int8 ? 128.0f : 0.0f;
    const Facts facts = facts_of(r, groups, reader.bias);
    q.scales = facts.half && q.codes != CodeKind::e4m3 ? ScaleKind::f16 : ScaleKind::f32;
    if (facts.same && facts.whole) {
        q.zeros = ZeroKind::constant;
        q.zero = static_cast<uint8_t>(r.zeros != nullptr ? r.zeros[0] + reader.bias : reader.bias);
    } else {
        q.zeros = facts.whole ? ZeroKind::u8 : facts.half_zero ? ZeroKind::f16 : ZeroKind::f32;
    }
    if (r.g_idx != nullptr) {
        sort_inputs(r, groups, reader.order, reader.source);
        groups = static_cast<int64_t>(reader.source.size());
        if (counts_up(reader.order, r.k)) reader.order.clear();
    }
    q.group = static_cast<int32_t>(r.group);
    q.inputs = reader.order.empty() ? r.k : static_cast<int64_t>(reader.order.size());
    q.per_chunk = groups_of_chunk(q);
    q.one_scale = r.one_scale;
    QuantSource source{q, reader.order, {}};
    source.read = std::move(reader);
    return source;
}

}  // namespace penstock
