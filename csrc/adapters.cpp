// What executor and plan do for adapters and prefixes: factors by slot, the rows of a step that have one, cache rows
// written from outside.
#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/table.h"
#include "plan.h"

namespace penstock {
namespace {

constexpr int kMostSlots = 1 << 16, kMostTargets = 1 << 20;
constexpr int64_t kMostRank = 1 << 16;

void need(bool ok, const std::string& message) {
    if (!ok) throw std::invalid_argument(message);
}

void check_factors(const LoraFactors& found, int64_t rank, int64_t n, int64_t k) {
    need(found.a.n <= rank && found.a.k == k && found.b.n == n,
         "an adapter was loaded that the program was not made for");
}

// Rows by adapter, chunk after chunk of those that `moe` works on at once.
void order_rows(std::vector<int32_t>& order, const std::vector<int32_t>& adapter_of) {
    order.resize(adapter_of.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        return std::pair(a / kMoeChunk, adapter_of[a]) < std::pair(b / kMoeChunk, adapter_of[b]);
    });
}

}  // namespace

// ------------------------------------------------------------------------------------------------------- executor

Matrix Executor::pack_f32(Pool& pool, const float* src, int64_t n, int64_t k) {
    Matrix m{Format::f32, n, k, (n + kTile - 1) / kTile, tile_bytes(Format::f32, k), nullptr};
    std::byte* data = pool.take(checked_product(m.tiles, m.tile_bytes, "an adapter"), "an adapter");
    pack_tiles(Format::f32, src, n, k, k, data, 0, m.tiles);
    m.data = data;
    return m;
}

void Executor::set_lora(int slot, int target, const float* a, const float* b, int64_t n, int64_t k, int64_t r,
                        float scale) {
    need(slot >= 1 && slot < kMostSlots && target >= 0 && target < kMostTargets, "adapter slot is out of range");
    need(n > 0 && k > 0 && r > 0 && r <= kMostRank && n < int64_t{1} << 31 && k < int64_t{1} << 31,
         "an adapter's factors must have rows and columns");
    Turn turn(*this);
    if (static_cast<size_t>(slot) >= adapters_.size()) adapters_.resize(slot + 1);
    if (adapters_[slot] == nullptr) adapters_[slot] = std::make_unique<Adapter>();
    Adapter& adapter = *adapters_[slot];
    if (static_cast<size_t>(target) >= adapter.targets.size()) adapter.targets.resize(target + 1);
    const Matrix packed_a = pack_f32(adapter.memory, a, r, k);
    adapter.factors.push_back({packed_a, pack_f32(adapter.memory, b, n, r), scale});
    adapter.targets[target] = &adapter.factors.back();
    adapter.serial = ++serials_;
}

void Executor::clear_adapter(int slot) {
    Turn turn(*this);
    if (has_adapter(slot)) adapters_[slot].reset();
}

bool Executor::has_adapter(int slot) const {
    return slot >= 1 && static_cast<size_t>(slot) < adapters_.size() && adapters_[slot] != nullptr;
}

LoraTable Executor::table(int slot) const {
    if (!has_adapter(slot)) return {};
    const std::vector<const LoraFactors*>& targets = adapters_[slot]->targets;
    return {targets.data(), static_cast<int64_t>(targets.size())};
}

void Executor::write_kv(int number, Span<int64_t> slots, const float* k, const float* v) {
    const KVLayer& cache = layer(number);
    const int64_t width = cache.kv_heads * cache.head_dim;
    for (const int64_t slot : slots) {
        need(slot >= 0 && slot < limits_.num_blocks * limits_.block_size, "a slot lies outside the cache");
    }
    Turn turn(*this);
    for (const int64_t slot : slots) touch_block(slot / limits_.block_size);
    const StoreArgs args{slots.size, {k, width}, {v, width}, slots.data, cache};
    team_->run([&](const Worker& worker) { store(kernels(), args, worker); });
}

// ----------------------------------------------------------------------------------------------------------- plan

void Plan::lora(int target, int64_t rank, int x, int y, int z) {
    const Slot in = slot(x), before = slot(y), out = slot(z);
    need(before.width == out.width && before.logits == out.logits && in.logits == out.logits,
         "lora: input and output differ in shape");
    need(rank > 0 && rank <= kMostRank, "lora: the rank is out of range");
    need_shared(lora_shared_bytes(most_rows(in), rank));
    need_scratch(lora_scratch_bytes(in.width, rank));
    loras_.push_back(std::make_unique<LoraOp>(LoraOp{target, rank, in.width, out.width, out.logits, {}}));
    const LoraOp* op = loras_.back().get();
    add(out.logits, [this, op, in, before, out](const State& s, const Worker& w) {
        const Adapted& adapted = adapted_[out.logits];
        penstock::lora(executor_.kernels(),
                       {{adapted.rows.data(), adapted.panels.data(), static_cast<int64_t>(adapted.panels.size())},
                        op->factors.data(),
                        s.rows[out.logits],
                        out.width,
                        rows(s, in),
                        rows(s, before),
                        at(s, out),
                        out.ld,
                        in.width,
                        op->rank,
                        shared_data_},
                       w);
    });
}

// Which rows have an adapter, panel by panel, and what each op adds to them.
void Plan::prepare_adapters(const Batch& batch) {
    for (Adapted& adapted : adapted_) adapted = {};
    std::vector<int> slots(batch.adapters.begin(), batch.adapters.end());
    std::sort(slots.begin(), slots.end());
    slots.erase(std::unique(slots.begin(), slots.end()), slots.end());
    for (const int slot : slots) {
        if (slot == 0) continue;
        need(executor_.has_adapter(slot), "bad batch: adapter slot " + std::to_string(slot) + " is empty");
        need(!loras_.empty() || !expert_loras_.empty(), "bad batch: adapters, but the program has no place for them");
        check_experts(slot);
        for (const bool logits : {false, true}) prepare_rows(batch, slot, logits);
    }
    for (Adapted& adapted : adapted_) {
        if (!adapted.tables.empty() && !expert_loras_.empty()) order_rows(adapted.order, adapted.adapter_of);
    }
    for (const auto& op : loras_) {
        op->factors.clear();
        for (const LoraPanel& panel : adapted_[op->logits].panels) {
            const LoraFactors* found = executor_.lora(panel.slot, op->target);
            if (found != nullptr) check_factors(*found, op->rank, op->n, op->k);
            op->factors.push_back(found);
        }
    }
}

// The rows of one arena whose sequences have the adapter in `slot`.
void Plan::prepare_rows(const Batch& batch, int slot, bool logits) {
    Adapted& to = adapted_[logits];
    const int64_t begin = static_cast<int64_t>(to.rows.size());
    const int64_t count = logits ? batch.rows() : batch.tokens(), most = executor_.kernels().panel_rows;
    to.adapter_of.resize(count, -1);
    int64_t seq = 0;
    for (int64_t i = 0; i < count; i++) {
        const int64_t token = logits ? batch.logits_rows[i] : i;
        if (token < batch.query_start[seq]) seq = 0;
        while (token >= batch.query_start[seq + 1]) seq++;
        if (batch.adapters[seq] != slot) continue;
        to.rows.push_back(static_cast<int32_t>(i));
        to.adapter_of[i] = static_cast<int32_t>(to.tables.size());
    }
    to.tables.push_back(executor_.table(slot));
    const int64_t end = static_cast<int64_t>(to.rows.size());
    for (int64_t at = begin; at < end; at += most) to.panels.push_back({slot, at, std::min(end, at + most)});
}

// What adapters may add to the experts of a `moe`; null: nothing.
const Plan::ExpertLoraOp* Plan::take_targets(const MoeSpec& spec, int64_t hidden, int64_t width) {
    if (spec.targets.empty()) return nullptr;
    need(static_cast<int64_t>(spec.targets.size()) == 3 * spec.experts, "moe: one target for each linear of an expert");
    need(spec.rank > 0 && spec.rank <= kMostRank, "moe: the rank is out of range");
    expert_loras_.push_back(std::make_unique<ExpertLoraOp>(
        ExpertLoraOp{{spec.targets.begin(), spec.targets.end()}, spec.rank, spec.experts, hidden, width}));
    return expert_loras_.back().get();
}

// Once for each adapter: whether its factors are what the ops of experts were made for.
void Plan::check_experts(int slot) {
    if (static_cast<size_t>(slot) >= checked_.size()) checked_.resize(slot + 1);
    if (checked_[slot] == executor_.adapter_serial(slot)) return;
    for (const auto& op : expert_loras_) {
        for (int64_t i = 0; i < 3 * op->experts; i++) {
            const bool down = i >= 2 * op->experts;
            const LoraFactors* found = executor_.lora(slot, op->targets[i]);
            if (found == nullptr) continue;
            check_factors(*found, op->rank, down ? op->hidden : op->width, down ? op->width : op->hidden);
        }
    }
    checked_[slot] = executor_.adapter_serial(slot);
}

ExpertTargets Plan::expert_targets(const ExpertLoraOp& op, bool logits) const {
    const Adapted& adapted = adapted_[logits];
    ExpertTargets targets{op.targets.data(), op.rank};
    if (adapted.tables.empty()) return targets;
    targets.adapter_of = adapted.adapter_of.data();
    targets.order = adapted.order.data();
    targets.tables = adapted.tables.data();
    return targets;
}

}  // namespace penstock
