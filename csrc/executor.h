// What outlives a step and every program: the team, the packed weights, the KV cache.
#pragma once
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "batch.h"
#include "formats/pack.h"
#include "formats/round.h"
#include "isa.h"
#include "memory.h"
#include "ops/ops.h"
#include "sampler_math.h"
#include "team.h"

namespace penstock {

struct Options {
    Limits limits;
    KVType kv_type = KVType::f32;
    std::string isa;   // see resolve_isa
    int threads = 0;   // 0: default_threads()
    bool pin = false;  // bind each worker to a CPU
};

// A vector of float32: a norm's weight, a bias, a constant.
struct Vector {
    const float* data = nullptr;
    int64_t size = 0;
};

class Executor {
  public:
    // Throws std::invalid_argument for limits or an instruction set that cannot be, OutOfMemory.
    explicit Executor(const Options& options);

    // Packs `src` ([n, k] of the format's element type, row stride ld elements) on the whole team; returns its number.
    int add_matrix(Format format, const void* src, int64_t n, int64_t k, int64_t ld);
    int add_quantised(const QuantSource& source, int64_t n, int64_t k);
    // Plain rows made int8 or int4 on the way.
    int add_rounded(const PlainRows& rows);
    int add_vector(const float* src, int64_t n);
    // Reserves one layer's cache; returns its number.
    int add_layer(int64_t kv_heads, int64_t head_dim);

    // Adapters: low-rank factors by slot (from 1) and target, a number that the caller gives to a weight.
    // set_lora packs A [r, k] and B [n, r] into the slot; clear_adapter frees all that the slot has.
    void set_lora(int slot, int target, const float* a, const float* b, int64_t n, int64_t k, int64_t r, float scale);
    void clear_adapter(int slot);
    bool has_adapter(int slot) const;
    // Null where the slot has nothing for the target.
    const LoraFactors* lora(int slot, int target) const { return table(slot).find(target); }
    LoraTable table(int slot) const;
    // Another number whenever the slot's factors are others.
    uint64_t adapter_serial(int slot) const { return has_adapter(slot) ? adapters_[slot]->serial : 0; }

    // Writes cache rows of a layer, as the op `store` does: k, v [slots.size, kv_heads * head_dim].
    void write_kv(int layer, Span<int64_t> slots, const float* k, const float* v);

    // By number; throw std::invalid_argument for one that is not there. Vector -1 is none.
    const Matrix& matrix(int number) const;
    Vector vector(int number) const;
    const KVLayer& layer(int number) const;

    const Limits& limits() const { return limits_; }
    const Kernels& kernels() const { return *kernels_; }
    const PackMath& pack_math() const { return penstock::pack_math(isa_name(*kernels_)); }
    const SamplerMath& sampler_math() const { return *sampler_math_; }
    Team& team() { return *team_; }
    int threads() const { return team_->count(); }
    std::string isa() const { return isa_name(*kernels_); }

    int64_t weight_bytes() const { return weights_.used(); }
    int64_t kv_reserved() const;
    // Bytes of the blocks that any step has written so far.
    int64_t kv_used() const { return touched_blocks_ * block_bytes_; }
    // What the system really holds for the cache.
    int64_t kv_resident() const;

    // Marks the blocks that a checked batch writes.
    void touch(const Batch& batch);
    // Copies blocks in the batch's order, each worker other layers. Called by all workers.
    void copy_blocks(const Batch& batch, const Worker& worker) const;

    // Held during a step; throws std::runtime_error when another thread holds it.
    class Turn {
      public:
        explicit Turn(Executor& executor);
        ~Turn() { executor_.busy_.store(false, std::memory_order_release); }
        Turn(const Turn&) = delete;
        Turn& operator=(const Turn&) = delete;

      private:
        Executor& executor_;
    };

  private:
    struct Adapter {
        Pool memory;
        std::deque<LoraFactors> factors;
        std::vector<const LoraFactors*> targets;
        uint64_t serial = 0;
    };
    // pack(begin, end) for all tiles, a multiple of `together` at a time (the last ones aside). Workers take what is
    // left in ever smaller parts, so that one whose CPU is taken for a while holds up nobody.
    template <class Pack>
    void share_tiles(const Matrix& m, int64_t together, Pack&& pack);
    Matrix pack_f32(Pool& pool, const float* src, int64_t n, int64_t k);
    void touch_block(int64_t block);

    Limits limits_;
    KVType kv_type_;
    const Kernels* kernels_ = nullptr;
    const SamplerMath* sampler_math_ = nullptr;
    std::unique_ptr<Team> team_;
    Pool weights_;
    std::vector<Matrix> matrices_;
    std::vector<std::vector<int32_t>> orders_;  // of the inputs of quantised matrices
    std::vector<Vector> vectors_;
    std::vector<KVLayer> layers_;
    std::vector<std::unique_ptr<Adapter>> adapters_;  // by slot
    uint64_t serials_ = 0;
    std::vector<Region> kv_;
    std::vector<bool> touched_;
    int64_t touched_blocks_ = 0;
    int64_t block_bytes_ = 0;  // of one block over all layers
    std::atomic<bool> busy_{false};
};

}  // namespace penstock
