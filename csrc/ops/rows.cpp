// Ops over rows: each worker takes a share of the rows, or of pieces of rows where elements do not depend on each
// other.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/table.h"
#include "ops/ops.h"

namespace penstock {
namespace {

constexpr int64_t kPiece = 512;  // columns; a multiple of 16

// f(row, begin, end) for this worker's pieces of [rows, width].
template <class Function>
void pieces(int64_t rows, int64_t width, const Worker& worker, Function f) {
    const int64_t each = (width + kPiece - 1) / kPiece;
    int64_t begin, end;
    worker.range(rows * each, begin, end);
    for (int64_t i = begin; i < end; i++) {
        const int64_t from = i % each * kPiece;
        f(i / each, from, std::min(width, from + kPiece));
    }
}

}  // namespace

void embed(const Kernels& kernels, const EmbedArgs& a, const Worker& worker) {
    pieces(a.rows, a.table.k, worker, [&](int64_t row, int64_t begin, int64_t end) {
        kernels.gather(a.table, a.ids[row], begin, end, a.scale, a.y + row * a.ldy + begin);
    });
}

void norm(const Kernels& kernels, const NormArgs& a, const Worker& worker) {
    const int64_t group = a.group > 0 ? a.group : a.width, each = a.width / group;
    int64_t begin, end;
    worker.range(a.rows * each, begin, end);
    for (int64_t i = begin; i < end; i++) {
        const int64_t row = i / each, column = i % each * group;
        kernels.norm(a.norm, a.x.data + row * a.x.ld + column, a.y + row * a.ldy + column, group);
    }
}

void elementwise(const Kernels& kernels, const ElementwiseArgs& a, const Worker& worker) {
    pieces(a.rows, a.width, worker, [&](int64_t row, int64_t begin, int64_t end) {
        const float* b = a.b.data;
        if (b != nullptr) b += row * a.b.ld + (a.kind == ElementwiseArgs::Kind::gate ? 0 : begin);
        kernels.elementwise(a.kind, a.activation, a.factor, a.a.data + row * a.a.ld + begin, b,
                            a.y + row * a.ldy + begin, end - begin);
    });
}

void select(const Kernels&, const SelectArgs& a, const Worker& worker) {
    pieces(a.rows, a.width, worker, [&](int64_t row, int64_t begin, int64_t end) {
        std::memcpy(a.y + row * a.ldy + begin, a.x.data + a.index[row] * a.x.ld + begin,
                    static_cast<size_t>(end - begin) * sizeof(float));
    });
}

void angles(const Kernels&, const AnglesArgs& a, const Worker& worker) {
    const int64_t half = a.dim / 2;
    int64_t begin, end;
    worker.range(a.rows, begin, end);
    for (int64_t row = begin; row < end; row++) {
        const int64_t n = a.lengths != nullptr ? a.lengths[row] : 0;
        const bool stretched = a.rule != LengthRule::none && n > a.original;
        const float* inverse = a.inv_freq;
        float scale = a.scale;
        double theta = 0;
        if (stretched && a.rule == LengthRule::longrope) {
            inverse = a.inv_freq_long;
            scale = a.scale_long;
        } else if (stretched) {
            const double ratio = static_cast<double>(n) / static_cast<double>(a.original), factor = a.factor;
            const double stretch =
                a.rule == LengthRule::dynamic
                    ? factor * static_cast<double>(n) / static_cast<double>(a.original) - (factor - 1)
                    : std::max(1.0, std::exp2(std::ceil(std::log2(ratio) + 1)) - 1);
            const double dim = static_cast<double>(a.dim);
            theta = static_cast<float>(a.theta * std::pow(stretch, dim / (dim - 2)));
        }
        float* y = a.y + row * a.ldy;
        for (int64_t i = 0; i < half; i++) {
            float frequency = inverse[i];
            if (theta != 0) {
                const double exponent = static_cast<float>(2 * i) / static_cast<float>(a.dim);
                frequency = 1.0f / static_cast<float>(std::pow(theta, exponent));
            }
            const double angle = static_cast<float>(a.positions[row]) * frequency;
            y[i] = static_cast<float>(std::cos(angle)) * scale;
            y[half + i] = static_cast<float>(std::sin(angle)) * scale;
        }
    }
}

}  // namespace penstock
