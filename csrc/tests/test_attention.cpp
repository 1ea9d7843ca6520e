// attention against a plain softmax in double precision, and against itself: a token's bits do not depend on the tokens
// computed with it, the other sequences, the workers, the block size, or on what stale memory holds.
#include <algorithm>

#include "support.h"

using namespace penstock;
using namespace penstock::test;

namespace {

struct Shape {
    int64_t heads, kv_heads, head_dim;
    KVType type;
    int64_t window = 0;
    float softcap = 0;
    bool alibi = false;
    int64_t log_n = 0;
    int32_t bidirectional = 0;
    int64_t poison = 0;  // this token of each sequence, counted from its end, has no numbers for key and value
    float steep = 0;     // keys grow with their row by so much: what weights are relative to is raised again and again
};

// n numbers to what bytes and one scale hold of them.
void byte_round(float* x, int64_t n) {
    float most = 0;
    for (int64_t i = 0; i < n; i++) most = std::max(most, std::fabs(x[i]));
    if (most == 0) return;
    const float factor = 127.0f / most, scale = most / 127.0f;
    for (int64_t i = 0; i < n; i++) x[i] = std::nearbyint(x[i] * factor) * scale;
}

struct Sequence {
    int64_t context, queries;
};

// One sequence's q, k, v for all its tokens, and a paged cache of all sequences in shuffled blocks.
struct Model {
    Shape shape;
    std::vector<int64_t> contexts;
    float scale;
    int64_t block_size, table_ld = 0;
    std::vector<Buffer<float>> q, k, v;
    std::vector<int32_t> tables;
    Buffer<std::byte> keys, values;
    KVLayer cache;
    Buffer<float> slopes;

    Model(const Kernels& kernels, const Shape& s, std::vector<int64_t> lengths, int64_t block)
        : shape(s),
          contexts(std::move(lengths)),
          scale(1.5f / std::sqrt(static_cast<float>(s.head_dim))),
          block_size(block),
          keys(0),
          values(0),
          cache{},
          slopes(random_floats(s.heads, 8, 0.01f, 0.1f)) {
        int64_t blocks = 0;
        for (int64_t n : contexts)
            table_ld = std::max(table_ld, (n + block - 1) / block), blocks += (n + block - 1) / block;
        const int64_t head_bytes = block / 16 * kv_group_bytes(s.type, s.head_dim);
        keys = Buffer<std::byte>(blocks * s.kv_heads * head_bytes, std::byte{0xff});  // NaN in every type
        values = Buffer<std::byte>(blocks * s.kv_heads * head_bytes, std::byte{0xff});
        cache = {s.type,      s.kv_heads,    s.head_dim, block,
                 keys.data(), values.data(), head_bytes, s.kv_heads * head_bytes};
        tables.assign(contexts.size() * static_cast<size_t>(table_ld), 0);
        int32_t next = static_cast<int32_t>(blocks);
        for (size_t i = 0; i < contexts.size(); i++) {
            const int64_t n = contexts[i], kv = s.kv_heads * s.head_dim;
            q.push_back(random_floats(n * s.heads * s.head_dim, 30 + i, -2, 2));
            k.push_back(random_floats(n * kv, 40 + i, -2, 2));
            v.push_back(random_floats(n * kv, 50 + i, -2, 2));
            for (int64_t j = 0; j < kv * n; j++) k[i][j] *= 1 + s.steep * static_cast<float>(j / kv);
            for (int64_t j = 0; j < kv * n; j++) {
                if (s.type == KVType::bf16) k[i][j] = bf16_round(k[i][j]), v[i][j] = bf16_round(v[i][j]);
                if (s.type == KVType::f16) k[i][j] = f16_round(k[i][j]), v[i][j] = f16_round(v[i][j]);
            }
            for (int64_t j = 0; s.type == KVType::i8 && j < kv * n; j += s.head_dim) {
                byte_round(k[i].data() + j, s.head_dim);
                byte_round(v[i].data() + j, s.head_dim);
            }
            for (int64_t j = (n - s.poison) * kv; s.poison > 0 && j < (n - s.poison + 1) * kv; j++) {
                k[i][j] = std::numeric_limits<float>::quiet_NaN();
                v[i][j] = std::numeric_limits<float>::infinity();
            }
            std::vector<int64_t> slots;
            for (int64_t row = 0; row < n; row++) {
                if (row % block == 0)
                    tables[i * static_cast<size_t>(table_ld) + static_cast<size_t>(row / block)] = --next;
                slots.push_back(int64_t{next} * block + row % block);
            }
            Worker w{};
            w.count = 1;
            store(kernels, {n, {k[i].data(), kv}, {v[i].data(), kv}, slots.data(), cache}, w);
        }
    }

    // Attention of the last `queries` of the first `context` rows of sequence `s`, for each span.
    struct Span {
        size_t seq;
        int64_t context, queries;
    };
    std::vector<std::vector<float>> run(const Kernels& kernels, const std::vector<Span>& spans, int workers) const {
        std::vector<int32_t> start{0}, lens, table, positions, boundary;
        std::vector<float> rows;
        const int64_t width = shape.heads * shape.head_dim;
        for (const Span& s : spans) {
            start.push_back(start.back() + static_cast<int32_t>(s.queries));
            lens.push_back(static_cast<int32_t>(s.context));
            boundary.push_back(shape.bidirectional);
            const auto from = tables.begin() + static_cast<long>(s.seq) * table_ld;
            table.insert(table.end(), from, from + table_ld);
            for (int64_t i = s.context - s.queries; i < s.context; i++) {
                positions.push_back(static_cast<int32_t>(i));
                rows.insert(rows.end(), q[s.seq].data() + i * width, q[s.seq].data() + (i + 1) * width);
            }
        }
        Buffer<float> y(start.back() * (width + 3), 7.0f);
        Buffer<std::byte> shared(attention_shared_bytes(shape.heads, shape.kv_heads, shape.head_dim,
                                                        *std::max_element(contexts.begin(), contexts.end()), workers),
                                 std::byte{0xff});
        AttentionArgs a{static_cast<int64_t>(spans.size()),
                        shape.heads,
                        shape.kv_heads,
                        shape.head_dim,
                        start.data(),
                        lens.data(),
                        table.data(),
                        table_ld,
                        shape.bidirectional > 0 ? boundary.data() : nullptr,
                        positions.data(),
                        scale,
                        shape.softcap,
                        shape.window,
                        shape.log_n,
                        shape.alibi ? slopes.data() : nullptr,
                        {rows.data(), width},
                        cache,
                        y.data(),
                        width + 3,
                        shared.data()};
        on_team(workers, attention_scratch_bytes(shape.heads, shape.kv_heads, shape.head_dim),
                [&](const Worker& w) { attention(kernels, a, w); });
        std::vector<std::vector<float>> result;
        for (int64_t r = 0; r < start.back(); r++)
            result.emplace_back(y.data() + r * (width + 3), y.data() + r * (width + 3) + width);
        return result;
    }

    // An element of a query as the kernel is to see it: scaled, and rounded where the cache is bf16 or bytes.
    double query(size_t s, int64_t row, int64_t h, int64_t d) const {
        const double x = q[s][(row * shape.heads + h) * shape.head_dim + d];
        float by = scale * (shape.softcap > 0 ? 1.0f : 1.44269504f);
        if (shape.log_n > 0 && row >= shape.log_n)
            by *= static_cast<float>(std::log(static_cast<double>(row) + 1.0) /
                                     std::log(static_cast<double>(shape.log_n)));
        if (shape.type == KVType::i8) {
            std::vector<float> head(static_cast<size_t>(shape.head_dim));
            for (int64_t e = 0; e < shape.head_dim; e++)
                head[static_cast<size_t>(e)] = q[s][(row * shape.heads + h) * shape.head_dim + e] * by;
            byte_round(head.data(), shape.head_dim);
            const double rounded = head[static_cast<size_t>(d)];
            return shape.softcap > 0 ? rounded : rounded / 1.4426950408889634;
        }
        const double scaled =
            shape.type == KVType::bf16 ? bf16_round(static_cast<float>(x) * by) : x * static_cast<double>(by);
        return shape.softcap > 0 ? scaled : scaled / 1.4426950408889634;
    }

    double want(size_t s, int64_t row, int64_t head, int64_t d, std::vector<double>& weights) const {
        const int64_t dim = shape.head_dim, kv = head / (shape.heads / shape.kv_heads), n = contexts[s];
        const int64_t end =
            std::min(n, row < shape.bidirectional ? std::max<int64_t>(row + 1, shape.bidirectional) : row + 1);
        const int64_t begin = shape.window > 0 ? std::max<int64_t>(0, row + 1 - shape.window) : 0;
        if (weights.empty()) {
            double top = -1e300, sum = 0;
            std::vector<double> scaled;
            for (int64_t e = 0; e < dim; e++) scaled.push_back(query(s, row, head, e));
            for (int64_t j = begin; j < end; j++) {
                double x = 0;
                for (int64_t e = 0; e < dim; e++)
                    x += scaled[static_cast<size_t>(e)] * k[s][(j * shape.kv_heads + kv) * dim + e];
                if (shape.softcap > 0) x = shape.softcap * std::tanh(x / shape.softcap);
                if (shape.alibi) x += slopes[head] * static_cast<double>(j - row);
                weights.push_back(x);
                top = std::max(top, x);
            }
            for (double& x : weights) sum += x = std::exp(x - top);
            for (double& x : weights) x /= sum;
        }
        double y = 0;
        for (int64_t j = begin; j < end; j++)
            y += weights[static_cast<size_t>(j - begin)] * v[s][(j * shape.kv_heads + kv) * dim + d];
        return y;
    }
};

void check(const Kernels& kernels, const Shape& shape, int64_t length, int64_t block_size) {
    const Model m(kernels, shape, {length, 5, length / 2 + 1}, block_size);
    const auto all = m.run(kernels, {{0, length, length}}, 1);
    const int64_t stride = std::max<int64_t>(1, length / (kWatched ? 4 : 40));
    for (int64_t row = 0; row < length; row += stride) {
        for (int64_t h = 0; h < shape.heads; h++) {
            std::vector<double> weights;
            for (int64_t d = 0; d < shape.head_dim; d++) {
                const double want = m.want(0, row, h, d, weights),
                             got = all[static_cast<size_t>(row)][static_cast<size_t>(h * shape.head_dim + d)];
                CHECK(std::fabs(got - want) < (shape.type == KVType::bf16 ? 8e-3 : 1e-5) * (shape.steep > 0 ? 8 : 1),
                      "%s type %d dim %ld row %ld head %ld d %ld: %.9g, want %.9g", kernels.name, int(shape.type),
                      long(shape.head_dim), long(row), long(h), long(d), got, want);
            }
        }
    }
    // Chunks and single tokens, alone and beside others, on any number of workers: the same bits as all at once. With a
    // bidirectional prefix the rows before the boundary must come together, so chunks start behind it.
    const auto compare = [&](const std::vector<float>& got, int64_t row, const char* how, int workers) {
        CHECK(same_bits(got.data(), all[static_cast<size_t>(row)].data(), static_cast<int64_t>(got.size())),
              "%s type %d dim %ld block %ld: row %ld %s, %d workers", kernels.name, int(shape.type),
              long(shape.head_dim), long(block_size), long(row), how, workers);
    };
    if (shape.bidirectional >= length) return;
    Random random(static_cast<uint64_t>(length));
    for (int workers = 1; workers <= (kWatched ? 3 : 8); workers++) {
        const int64_t row = std::max<int64_t>(shape.bidirectional, random.below(length));
        compare(m.run(kernels, {{0, row + 1, 1}}, workers)[0], row, "alone", workers);
        const int64_t end = std::min(length, row + 1 + random.below(70)), count = end - row;
        const auto chunk = m.run(kernels, {{2, length / 2 + 1, 1}, {0, end, count}, {1, 5, 5}}, workers);
        for (int64_t i = 0; i < count; i++) compare(chunk[static_cast<size_t>(1 + i)], row + i, "in a chunk", workers);
        if (workers % 4 == 2 && !kWatched) {
            const auto again = m.run(kernels, {{0, length, length}}, workers);
            for (int64_t i = 0; i < length; i += 7) compare(again[static_cast<size_t>(i)], i, "again", workers);
        }
    }
    for (int64_t block : {16, 32, 48, 64}) {
        if (block == block_size) continue;
        const Model other(kernels, shape, {length, 5, length / 2 + 1}, block);
        for (int64_t n : {int64_t{1}, std::min<int64_t>(length - shape.bidirectional, 20)}) {
            const auto some = other.run(kernels, {{0, length, n}}, 2);
            for (int64_t i = 0; i < n; i++) compare(some[static_cast<size_t>(i)], length - n + i, "other blocks", 2);
        }
    }
}

// What a token does not see is nothing to it, though it is computed with tokens that see it: not even what is no
// number.
void check_poison(const Kernels& kernels, Shape shape, int64_t length, int64_t block_size, int64_t poison = 1) {
    const Model clean(kernels, shape, {length}, block_size);
    shape.poison = poison;
    const Model poisoned(kernels, shape, {length}, block_size);
    const auto want = clean.run(kernels, {{0, length, length}}, 1),
               got = poisoned.run(kernels, {{0, length, length}}, 1);
    const int64_t first = length - poison, last = shape.window > 0 ? std::min(length, first + shape.window) : length;
    for (int64_t row = 0; row < length; row++) {
        const auto &a = want[static_cast<size_t>(row)], &b = got[static_cast<size_t>(row)];
        if (first <= row && row < last)
            CHECK(std::isnan(b[0]), "%s type %d: row %ld has numbers", kernels.name, int(shape.type), long(row));
        else
            CHECK(same_bits(a.data(), b.data(), static_cast<int64_t>(a.size())), "%s type %d dim %ld: row %ld",
                  kernels.name, int(shape.type), long(shape.head_dim), long(row));
    }
}

}  // namespace

int main() {
    for_all_cores([](const Kernels& kernels) {
        for (KVType type : {KVType::f32, KVType::f16, KVType::bf16, KVType::i8}) {
            for (int64_t dim : {2, 8, 10, 12, 18, 40, 64, 80}) check(kernels, {4, 2, dim, type}, 75, 16);
            for (int64_t length : {2, 15, 75, 128}) check_poison(kernels, {4, 2, 24, type}, length, 16);
            check_poison(kernels, {3, 3, 16, type, 9}, 100, 16);
            // Many query rows side by side, of which some see it.
            for (int64_t poison : {1, 2, 33, 60}) {
                check_poison(kernels, {4, 1, 40, type, 9}, 75, 32, poison);
                check_poison(kernels, {8, 1, 18, type}, 75, 32, poison);
            }
            // Several partitions, cut between workers; several heads streamed.
            check(kernels, {8, 1, 24, type}, kWatched ? 530 : 1300, 32);
            check(kernels, {6, 2, 24, type}, kWatched ? 530 : 1030, 16);
            check(kernels, {4, 2, 16, type, 0, 0, false, 0, 0, false, 0.02f}, kWatched ? 130 : 530, 64);
            check(kernels, {4, 2, 136, type}, 100, 64);  // several chunks, the last one narrow
            check(kernels, {3, 3, 128, type}, kWatched ? 70 : 530, 16);
            check(kernels, {5, 1, 72, type}, 75, 32);    // panels of several sizes
            check(kernels, {16, 1, 96, type}, 75, 32);   // one token fills a panel
            check(kernels, {17, 1, 256, type}, 90, 16);  // more heads to a kv head than a panel has rows
            check(kernels, {70, 1, 16, type}, 40, 16);   // than a task
            check(kernels, {2, 2, 512, type}, 20, 16);
            check(kernels, {4, 2, 32, type, 100}, kWatched ? 120 : 700, 16);
            check(kernels, {4, 2, 32, type, 7}, kWatched ? 80 : 600, 48);
            check(kernels, {4, 1, 16, type, 0, 5.0f, true, 50}, 200, 16);
            check(kernels, {4, 4, 16, type, 0, 0, false, 0, 37}, 130, 16);
            check(kernels, {4, 4, 16, type, 0, 0, true, 0, 130}, 90, 16);
        }
        std::printf("attention: %s ok\n", kernels.name);
    });
    return 0;
}
