#include "executor.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "cpus.h"

namespace penstock {
namespace {

constexpr int kMostThreads = 1024;

void need(bool ok, const std::string& message) {
    if (!ok) throw std::invalid_argument(message);
}

template <class T>
const T& at(const std::vector<T>& items, int number, const char* what) {
    need(number >= 0 && number < static_cast<int>(items.size()),
         std::string(what) + " " + std::to_string(number) + " does not exist");
    return items[number];
}

}  // namespace

Executor::Executor(const Options& options) : limits_(options.limits), kv_type_(options.kv_type) {
    const Limits& l = limits_;
    need(l.max_tokens > 0 && l.max_tokens <= INT32_MAX / 2, "max_tokens is out of range");
    need(l.max_seqs > 0 && l.max_seqs <= INT32_MAX / 2, "max_seqs is out of range");
    need(l.max_logits_rows > 0 && l.max_logits_rows <= INT32_MAX / 2, "max_logits_rows is out of range");
    need(l.max_context > 0 && l.max_context <= INT32_MAX / 2, "max_context is out of range");
    need(l.num_blocks > 0 && l.num_blocks <= INT32_MAX / 2, "num_blocks is out of range");
    need(l.block_size > 0 && l.block_size % 16 == 0 && l.block_size <= 1 << 16, "block_size must be a multiple of 16");
    need(options.threads >= 0 && options.threads <= kMostThreads, "threads must be from 0 (all cores) to 1024");
    const IsaChoice choice = resolve_isa(options.isa);
    need(choice.kernels != nullptr, choice.error);
    kernels_ = choice.kernels;
    sampler_math_ = &penstock::sampler_math(isa());
    team_ = std::make_unique<Team>(options.threads > 0 ? options.threads : default_threads(), options.pin);
    touched_.resize(l.num_blocks);
}

template <class Pack>
void Executor::share_tiles(const Matrix& m, int64_t together, Pack&& pack) {
    // Two workers that touch one huge page for the first time would both clear it.
    constexpr int64_t kPage = int64_t{2} << 20;
    const int64_t fair = (m.tiles + threads() - 1) / threads(), page = (kPage + m.tile_bytes - 1) / m.tile_bytes;
    const int64_t least = (std::min(fair, page) + together - 1) / together * together;
    std::atomic<int64_t> next{0};
    Turn turn(*this);
    team_->run([&](const Worker& w) {
        int64_t begin = next.load(), end;
        for (;;) {
            do {
                if (begin >= m.tiles) return;
                const int64_t part = (m.tiles - begin) / (2 * w.count) / together * together;
                end = std::min(begin + std::max(part, least), m.tiles);
            } while (!next.compare_exchange_weak(begin, end));
            pack(begin, end);
            begin = next.load();
        }
    });
}

int Executor::add_matrix(Format format, const void* src, int64_t n, int64_t k, int64_t ld) {
    need(n > 0 && k > 0 && ld >= k && n < int64_t{1} << 40 && k < int64_t{1} << 31,
         "a matrix must have rows and columns");
    Matrix m{format, n, k, (n + kTile - 1) / kTile, tile_bytes(format, k), nullptr, {}};
    std::byte* data = weights_.take(checked_product(m.tiles, m.tile_bytes, "a weight"), "weights");
    m.data = data;
    const PackMath& math = pack_math();
    share_tiles(m, 1, [&](int64_t begin, int64_t end) { pack_tiles(format, src, n, k, ld, data, begin, end, math); });
    matrices_.push_back(m);
    return static_cast<int>(matrices_.size()) - 1;
}

int Executor::add_quantised(const QuantSource& source, int64_t n, int64_t k) {
    need(n > 0 && k > 0 && n < int64_t{1} << 40 && k < int64_t{1} << 31, "a matrix must have rows and columns");
    const Quant& q = source.quant;
    Matrix m{Format::quantised, n, k, (n + kTile - 1) / kTile, quant_tile_bytes(q), nullptr, q};
    std::byte* data = weights_.take(checked_product(m.tiles, m.tile_bytes, "a weight"), "weights");
    m.data = data;
    if (!source.order.empty()) {
        orders_.push_back(source.order);
        m.quant.order = orders_.back().data();
    }
    const PackMath& math = pack_math();
    share_tiles(m, source.together, [&](int64_t begin, int64_t end) {
        pack_quantised(q, n, source.read, data, begin, end, math, source.together);
    });
    matrices_.push_back(m);
    return static_cast<int>(matrices_.size()) - 1;
}

int Executor::add_rounded(const PlainRows& rows) {
    const RoundMath& math = round_math(isa());
    std::atomic<float> largest{0};
    const int number = add_quantised(rounded_source(rows, math, true, largest), rows.n, rows.k);
    const float size = largest.load();
    if (size >= kLeastHalfScale && size <= kMostHalfScale) return number;
    matrices_.pop_back();
    weights_.give_back();
    return add_quantised(rounded_source(rows, math, false, largest), rows.n, rows.k);
}

int Executor::add_vector(const float* src, int64_t n) {
    need(n > 0, "a vector must have elements");
    std::byte* data = weights_.take(checked_product(n, sizeof(float), "a vector"), "weights");
    std::memcpy(data, src, n * sizeof(float));
    vectors_.push_back({reinterpret_cast<const float*>(data), n});
    return static_cast<int>(vectors_.size()) - 1;
}

int Executor::add_layer(int64_t kv_heads, int64_t head_dim) {
    need(kv_heads > 0 && kv_heads <= 1 << 16, "kv_heads is out of range");
    need(head_dim > 0 && head_dim % 2 == 0 && head_dim <= 1 << 16, "head_dim must be even");
    KVLayer layer{kv_type_, kv_heads, head_dim, limits_.block_size, nullptr, nullptr, 0, 0};
    layer.head_bytes = limits_.block_size / 16 * kv_group_bytes(kv_type_, head_dim);
    layer.block_bytes = checked_product(kv_heads, layer.head_bytes, "a block of the KV cache");
    const int64_t bytes = checked_product(limits_.num_blocks, layer.block_bytes, "the KV cache");
    for (std::byte** part : {&layer.keys, &layer.values}) {
        kv_.emplace_back(bytes, Pages::small, "the KV cache of a layer; lower kv_cache_memory");
        *part = kv_.back().data();
    }
    block_bytes_ += 2 * layer.block_bytes;
    layers_.push_back(layer);
    return static_cast<int>(layers_.size()) - 1;
}

const Matrix& Executor::matrix(int number) const { return at(matrices_, number, "matrix"); }
Vector Executor::vector(int number) const { return number == -1 ? Vector{} : at(vectors_, number, "vector"); }
const KVLayer& Executor::layer(int number) const { return at(layers_, number, "cache layer"); }

int64_t Executor::kv_reserved() const {
    int64_t bytes = 0;
    for (const Region& region : kv_) bytes += region.bytes();
    return bytes;
}

int64_t Executor::kv_resident() const {
    int64_t bytes = 0;
    for (const Region& region : kv_) bytes += region.resident();
    return bytes;
}

void Executor::touch_block(int64_t block) {
    if (touched_[block]) return;
    touched_[block] = true;
    touched_blocks_++;
}

void Executor::touch(const Batch& batch) {
    for (const int64_t slot : batch.slots) touch_block(slot / limits_.block_size);
    for (int64_t i = 1; i < batch.block_copies.size; i += 2) touch_block(batch.block_copies[i]);
}

void Executor::copy_blocks(const Batch& batch, const Worker& worker) const {
    for (size_t i = worker.id; i < layers_.size(); i += worker.count) {
        const KVLayer& layer = layers_[i];
        for (int64_t j = 0; j < batch.block_copies.size; j += 2) {
            const int64_t from = batch.block_copies[j] * layer.block_bytes,
                          to = batch.block_copies[j + 1] * layer.block_bytes;
            if (from == to) continue;
            std::memcpy(layer.keys + to, layer.keys + from, layer.block_bytes);
            std::memcpy(layer.values + to, layer.values + from, layer.block_bytes);
        }
    }
}

Executor::Turn::Turn(Executor& executor) : executor_(executor) {
    if (executor.busy_.exchange(true, std::memory_order_acquire)) {
        throw std::runtime_error("the executor is running a step for another thread; one caller at a time");
    }
}

}  // namespace penstock
