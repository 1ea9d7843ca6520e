// A program laid out in memory: ops over columns of two arenas, run as one parallel region a step, or one by one.
//
// A value is `column` floats a row into its arena (rows: the step's tokens, or its rows of logits), so that with few
// rows all values lie close together:   arena + column * rows  ->  [rows, ld], ld = width rounded up to 16
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "executor.h"
#include "ops/moe.h"
#include "sampler.h"

namespace penstock {

struct LinearPartSpec {
    int weight;
    int bias;  // -1: none
    int y;     // -1 for the second part of an activation
};

struct NormSpec {
    NormKind kind = NormKind::none;
    float eps = 0;
    bool plus_one = false;
    int weight = -1;
    int bias = -1;
};

struct AttentionSpec {
    int layer;
    int64_t heads;
    float scale, softcap;
    int64_t window, log_n;
    int alibi;  // vector, -1: none
    bool bidirectional;
};

struct AnglesSpec {
    int channel;
    int64_t dim;
    int inv_freq, inv_freq_long;  // vectors, the second -1: none
    float scale, scale_long;
    LengthRule rule;
    float theta, factor;
    int64_t original;
};

struct RopeSpec {
    int64_t head_dim, dim, start;
    bool interleaved;
};

struct MoeSpec {
    int64_t experts, top_k;
    bool renormalise;
    Activation activation;
    Act act, act_up, act_down;
    int gate, up, down;  // matrices of the first expert; the others' numbers follow
    // Of gate, up and down of each expert, what it is as a target of adapters, -1: none; or empty.
    std::vector<int> targets;
    int64_t rank;  // the largest of any adapter that steps may name
};

// A value as the last step left it.
struct View {
    float* data;
    int64_t rows, width, ld;
};

class Plan {
  public:
    Plan(Executor& executor, int64_t token_columns, int64_t logits_columns);

    // ------------------------------------------------------------------- build: throw std::invalid_argument
    // Values and ops get numbers from 0 in the order they are added.
    int value(int64_t column, int64_t width, bool logits);
    void embed(int table, float scale, int y);
    void embed_positions(int table, int channel, int64_t offset, int y);
    void norm(const NormSpec& norm, int64_t group, int x, int y);
    void linear(const NormSpec& norm, Act act, Activation activation, int x, int residual,
                const std::vector<LinearPartSpec>& parts);
    void angles(const AnglesSpec& spec, int y);
    void rope(const RopeSpec& rope, int x, int cs, int y);
    void store(int layer, int k, int v);
    void qk_rope_store(int layer, const RopeSpec& rope, const NormSpec& q_norm, const NormSpec& k_norm, int q, int k,
                       int v, int cs, int y);
    void attention(const AttentionSpec& spec, int q, int y);
    void elementwise(ElementwiseArgs::Kind kind, Activation activation, float factor, int a, int b, int y);
    void moe(const MoeSpec& spec, int x, int router, int y);
    void select(int x, int y);
    // `rank`: the largest of any adapter that steps may name for this target.
    void lora(int target, int64_t rank, int x, int y, int z);
    void outputs(int logits, int hidden);
    // Takes the memory; no op may be added after it.
    void finish();

    // ------------------------------------------------------------------- run
    struct Wanted {
        const SamplingBatch* sampling = nullptr;
        SampleOutput sample;
        float* logits = nullptr;  // [rows, vocab]
        float* hidden = nullptr;  // [tokens, width]
    };
    // One step. Throws std::invalid_argument for a bad batch, before anything is changed.
    void step(const Batch& batch, const Wanted& wanted);
    // The same in two: all but what follows the logits, and that (`end`). The arrays must live until the end; the
    // sampling masks may be filled in between.
    void forward(const Batch& batch, const Wanted& wanted);
    // The same in pieces: begin, run_op(0), run_op(1) ..., end. The batch's arrays must live until the end.
    void begin(const Batch& batch, const Wanted& wanted);
    void run_op(int op);
    void end(const Wanted& wanted);

    int ops() const { return static_cast<int>(ops_.size()); }
    View view(int value) const;
    int64_t vocab() const;
    int64_t hidden_width() const;
    int64_t workspace_bytes() const;
    Executor& executor() { return executor_; }

  private:
    struct Slot {
        int64_t column, width, ld;
        bool logits;
    };
    struct State {
        Batch batch;
        float* arena[2];  // tokens, logits
        int64_t rows[2];
    };
    using Run = std::function<void(const State&, const Worker&)>;
    struct Op {
        bool logits;  // runs over rows of logits: nothing to do when there are none
        Run run;
    };
    // Integers per token that ops read and a step computes: shifted positions, lengths.
    struct Derived {
        int64_t channel, offset;
        LengthRule rule;
        std::vector<int32_t> values;
    };

    // The rows of one arena that have an adapter in this step.
    struct Adapted {
        std::vector<int32_t> rows;
        std::vector<LoraPanel> panels;
        // For experts: the step's adapters, which of them each row has (-1: none), rows by adapter.
        std::vector<LoraTable> tables;
        std::vector<int32_t> adapter_of, order;
    };
    // One op's factors for each panel, found when a step is prepared.
    struct LoraOp {
        int target;
        int64_t rank, k, n;
        bool logits;
        std::vector<const LoraFactors*> factors;
    };
    struct ExpertLoraOp {
        std::vector<int32_t> targets;
        int64_t rank, experts, hidden, width;
    };

    const Slot& slot(int value) const;
    static float* at(const State& s, const Slot& v) { return s.arena[v.logits] + v.column * s.rows[v.logits]; }
    static Rows rows(const State& s, const Slot& v) { return {at(s, v), v.ld}; }
    Norm norm_of(const NormSpec& spec, int64_t width) const;
    Vector vector_of(int number, int64_t size, const char* what) const;
    int64_t use_channel(int channel);
    const int32_t* derive(int64_t channel, int64_t offset, LengthRule rule);
    void add(bool logits, Run run);
    void need_scratch(int64_t bytes);
    void need_shared(int64_t bytes);
    int64_t most_rows(const Slot& v) const;

    void prepare(const Batch& batch, const Wanted& wanted);
    void prepare_adapters(const Batch& batch);
    void prepare_rows(const Batch& batch, int slot, bool logits);
    const ExpertLoraOp* take_targets(const MoeSpec& spec, int64_t hidden, int64_t width);
    void check_experts(int slot);
    ExpertTargets expert_targets(const ExpertLoraOp& op, bool logits) const;
    void run_all(const Worker& worker) const;
    void run_end(const Wanted& wanted, const Worker& worker) const;

    Executor& executor_;
    int64_t columns_[2];
    std::vector<Slot> values_;
    std::vector<Op> ops_;
    std::vector<std::unique_ptr<Derived>> derived_;
    std::vector<std::unique_ptr<LoraOp>> loras_;
    std::vector<std::unique_ptr<ExpertLoraOp>> expert_loras_;
    std::vector<uint64_t> checked_;  // by slot: the adapter that fits the ops of experts
    Adapted adapted_[2];             // tokens, logits
    int64_t embed_width_ = 0;
    BatchNeeds needs_;
    int logits_ = -1, hidden_ = -1;
    int64_t scratch_bytes_ = 0, shared_bytes_ = 0;
    std::byte* shared_data_ = nullptr;
    Region arenas_[2], scratch_, shared_;
    bool finished_ = false, begun_ = false;
    State state_{};
};

}  // namespace penstock
