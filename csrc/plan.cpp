#include "plan.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace penstock {
namespace {

void need(bool ok, const char* message) {
    if (!ok) throw std::invalid_argument(message);
}

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

void copy_rows(const View& v, float* to, const Worker& w) {
    int64_t begin, end;
    w.range(v.rows, begin, end);
    for (int64_t i = begin; i < end; i++) std::memcpy(to + i * v.width, v.data + i * v.ld, v.width * sizeof(float));
}

}  // namespace

Plan::Plan(Executor& executor, int64_t token_columns, int64_t logits_columns)
    : executor_(executor), columns_{token_columns, logits_columns} {
    for (const int64_t columns : columns_) need(columns >= 0 && columns < int64_t{1} << 40, "columns are out of range");
}

int Plan::value(int64_t column, int64_t width, bool logits) {
    const Slot slot{column, width, round_up(width, 16), logits};
    need(width > 0 && width < int64_t{1} << 31, "a value must have a width");
    need(column >= 0 && column % 16 == 0 && column + slot.ld <= columns_[logits], "a value lies outside its arena");
    values_.push_back(slot);
    return static_cast<int>(values_.size()) - 1;
}

const Plan::Slot& Plan::slot(int value) const {
    need(value >= 0 && value < static_cast<int>(values_.size()), "no such value");
    return values_[value];
}

Vector Plan::vector_of(int number, int64_t size, const char* what) const {
    const Vector v = executor_.vector(number);
    if (number != -1 && v.size != size) {
        throw std::invalid_argument(std::string(what) + " has " + std::to_string(v.size) + " elements, not " +
                                    std::to_string(size));
    }
    return v;
}

Norm Plan::norm_of(const NormSpec& spec, int64_t width) const {
    Norm norm{spec.kind, spec.plus_one, spec.eps, nullptr, nullptr};
    if (spec.kind == NormKind::none) return norm;
    norm.weight = vector_of(spec.weight, width, "a norm's weight").data;
    norm.bias = vector_of(spec.bias, width, "a norm's bias").data;
    return norm;
}

int64_t Plan::use_channel(int channel) {
    need(channel >= 0 && channel < kMaxChannels, "position channel is out of range");
    needs_.channels = std::max<int64_t>(needs_.channels, channel + 1);
    return channel;
}

const int32_t* Plan::derive(int64_t channel, int64_t offset, LengthRule rule) {
    for (const auto& d : derived_) {
        if (d->channel == channel && d->offset == offset && d->rule == rule) return d->values.data();
    }
    derived_.push_back(
        std::make_unique<Derived>(Derived{channel, offset, rule, std::vector<int32_t>(executor_.limits().max_tokens)}));
    return derived_.back()->values.data();
}

void Plan::add(bool logits, Run run) {
    need(!finished_, "the plan is finished");
    ops_.push_back({logits, std::move(run)});
}

void Plan::need_scratch(int64_t bytes) { scratch_bytes_ = std::max(scratch_bytes_, round_up(bytes, kCacheLines)); }
void Plan::need_shared(int64_t bytes) { shared_bytes_ = std::max(shared_bytes_, bytes); }

int64_t Plan::most_rows(const Slot& v) const {
    return v.logits ? executor_.limits().max_logits_rows : executor_.limits().max_tokens;
}

void Plan::outputs(int logits, int hidden) {
    need(slot(logits).logits, "logits must be a value of rows of logits");
    need(!slot(hidden).logits, "hidden must be a value of tokens");
    logits_ = logits;
    hidden_ = hidden;
}

void Plan::finish() {
    need(!finished_ && logits_ >= 0, "a plan is finished once, after its outputs are named");
    const Limits& limits = executor_.limits();
    need_scratch(sampler_scratch_bytes(vocab()));
    const int64_t rows[2] = {limits.max_tokens, limits.max_logits_rows};
    for (int i = 0; i < 2; i++) {
        const int64_t bytes = checked_product(columns_[i] * 4, rows[i], "the activations");
        arenas_[i] = Region(bytes, Pages::huge, "activations; lower max_num_batched_tokens");
    }
    scratch_ = Region(checked_product(scratch_bytes_, executor_.threads(), "scratch"), Pages::small, "scratch");
    shared_ = Region(shared_bytes_, Pages::small, "scratch");
    shared_data_ = shared_.data();
    finished_ = true;
}

int64_t Plan::vocab() const { return slot(logits_).width; }
int64_t Plan::hidden_width() const { return slot(hidden_).width; }

int64_t Plan::workspace_bytes() const {
    return arenas_[0].resident() + arenas_[1].resident() + scratch_.resident() + shared_.resident();
}

View Plan::view(int value) const {
    const Slot& v = slot(value);
    need(state_.arena[0] != nullptr, "no step has run");
    return {at(state_, v), state_.rows[v.logits], v.width, v.ld};
}

// ------------------------------------------------------------------------------------------------------------ run

void Plan::prepare(const Batch& batch, const Wanted& wanted) {
    need(finished_, "the plan is not finished");
    check_batch(batch, executor_.limits(), needs_);
    if (wanted.sampling != nullptr) check_sampling(*wanted.sampling, batch.rows(), vocab(), wanted.sample);
    const int64_t tokens = batch.tokens();
    for (const auto& d : derived_) {
        const int32_t* positions = batch.positions + d->channel * tokens;
        for (int64_t s = 0; s < batch.seqs(); s++) {
            for (int64_t t = batch.query_start[s]; t < batch.query_start[s + 1]; t++) {
                int32_t value = positions[t] + static_cast<int32_t>(d->offset);
                if (d->rule == LengthRule::qwen_ntk) value = batch.prompt_lens[s];
                if (d->rule == LengthRule::dynamic || d->rule == LengthRule::longrope) {
                    value = std::max(batch.prompt_lens[s], positions[t] + 1);
                }
                d->values[t] = value;
            }
        }
    }
    if (batch.embeds != nullptr) need(batch.embed_width == embed_width_, "bad batch: embeds have another width");
    prepare_adapters(batch);
    executor_.touch(batch);
    state_ = {batch,
              {reinterpret_cast<float*>(arenas_[0].data()), reinterpret_cast<float*>(arenas_[1].data())},
              {tokens, batch.rows()}};
}

void Plan::run_all(const Worker& worker) const {
    if (state_.batch.block_copies.size > 0) {
        executor_.copy_blocks(state_.batch, worker);
        worker.barrier();
    }
    for (const Op& op : ops_) {
        if (op.logits && state_.rows[1] == 0) continue;
        op.run(state_, worker);
        worker.barrier();
    }
}

void Plan::run_end(const Wanted& wanted, const Worker& worker) const {
    if (wanted.logits != nullptr) copy_rows(view(logits_), wanted.logits, worker);
    if (wanted.hidden != nullptr) copy_rows(view(hidden_), wanted.hidden, worker);
    if (wanted.sampling == nullptr) return;
    const View logits = view(logits_);
    sample(executor_.sampler_math(), *wanted.sampling, logits.data, logits.ld, logits.width, wanted.sample, worker);
}

void Plan::step(const Batch& batch, const Wanted& wanted) {
    Executor::Turn turn(executor_);
    begun_ = false;
    prepare(batch, wanted);
    executor_.team().run(scratch_.data(), scratch_bytes_, [&](const Worker& worker) {
        run_all(worker);
        run_end(wanted, worker);
    });
}

void Plan::forward(const Batch& batch, const Wanted& wanted) {
    Executor::Turn turn(executor_);
    begun_ = false;
    prepare(batch, wanted);
    executor_.team().run(scratch_.data(), scratch_bytes_, [&](const Worker& worker) { run_all(worker); });
    begun_ = true;
}

void Plan::begin(const Batch& batch, const Wanted& wanted) {
    Executor::Turn turn(executor_);
    prepare(batch, wanted);
    if (batch.block_copies.size > 0) {
        executor_.team().run([&](const Worker& worker) { executor_.copy_blocks(batch, worker); });
    }
    begun_ = true;
}

void Plan::run_op(int number) {
    Executor::Turn turn(executor_);
    need(begun_, "begin a step first");
    need(number >= 0 && number < ops(), "no such op");
    const Op& op = ops_[number];
    if (op.logits && state_.rows[1] == 0) return;
    executor_.team().run(scratch_.data(), scratch_bytes_, [&](const Worker& worker) { op.run(state_, worker); });
}

void Plan::end(const Wanted& wanted) {
    Executor::Turn turn(executor_);
    need(begun_, "begin a step first");
    begun_ = false;
    executor_.team().run(scratch_.data(), scratch_bytes_, [&](const Worker& worker) { run_end(wanted, worker); });
}

}  // namespace penstock
