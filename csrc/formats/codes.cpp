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

struct Reader {
    CodedRows r;
    Quant q;
    uint8_t flip;  // turns a signed byte into one from 0
    float bias;
    std::vector<int32_t> order, source;

    uint8_t code(const uint8_t* row, int64_t k) const {
        if (q.codes == CodeKind::u4) return k % 2 == 0 ? row[k / 2] & 15 : row[k / 2] >> 4;
        return row[k] ^ flip;
    }

    void operator()(int64_t row, int64_t first, int64_t groups, RowChunk& out) const {
        const uint8_t* from = r.codes + row * r.codes_ld;
        for (int64_t g = 0; g < groups; g++) {
            const int64_t n = q.inputs_of(first + g), k = (first + g) * q.group;
            const int64_t at = source.empty() ? first + g : source[static_cast<size_t>(first + g)];
            uint8_t* to = out.codes + g * q.padded();
            out.scales[g] = r.scales[row * r.scales_ld + at];
            out.zeros[g] = r.zeros != nullptr ? r.zeros[row * r.zeros_ld + at] + bias : bias;
            if (!order.empty()) {
                for (int64_t i = 0; i < n; i++) {
                    const int32_t input = order[static_cast<size_t>(k + i)];
                    if (input >= 0) to[i] = code(from, input);
                }
            } else if (q.codes == CodeKind::u4) {
                nibbles(from, k, n, to);
            } else {
                for (int64_t i = 0; i < n; i++) to[i] = from[k + i] ^ flip;
            }
            if (q.codes != CodeKind::e4m3) continue;
            for (int64_t i = 0; i < n; i++)  // a NaN spoils its group's scale, as its product would be
                if ((to[i] & 127) == 127) out.scales[g] = std::nanf("");
        }
    }

    static void nibbles(const uint8_t* row, int64_t k, int64_t n, uint8_t* to) {
        if (k % 2 != 0 && n > 0) *to++ = row[k / 2] >> 4, k++, n--;
        const uint8_t* from = row + k / 2;
        for (int64_t i = 0; i < n / 2; i++) {
            to[2 * i] = from[i] & 15;
            to[2 * i + 1] = from[i] >> 4;
        }
        if (n % 2 != 0) to[n - 1] = from[n / 2] & 15;
    }
};

}  // namespace

QuantSource coded_source(const CodedRows& r) {
    need(r.format == "int8" || r.format == "int4" || r.format == "fp8", "codes must be int8, int4 or fp8");
    need(r.n > 0 && r.k > 0 && r.k < int64_t{1} << 31 && r.group > 0 && r.group <= r.k, "sizes do not fit");
    Reader reader{r, {}, 0, 0, {}, {}};
    Quant& q = reader.q;
    int64_t groups = (r.k + r.group - 1) / r.group;
    const bool int8 = r.format == "int8";
    q.codes = int8 ? CodeKind::u8 : r.format == "int4" ? CodeKind::u4 : CodeKind::e4m3;
    reader.flip = int8 ? 128 : 0;
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
    q.per_chunk = static_cast<int32_t>(q.padded() >= kChunkInputs ? 1 : kChunkInputs / q.padded());
    if (q.per_chunk > kChunkGroups) q.per_chunk = kChunkGroups;
    q.one_scale = r.one_scale;
    q.step = r.one_scale ? 1 << 16 : 128;
    QuantSource source{q, reader.order, {}};
    source.read = std::move(reader);
    return source;
}

}  // namespace penstock
