// Sparse mixture of experts: every expert sees the rows that chose it, the others cost nothing.
#pragma once
#include "ops/ops.h"

namespace penstock {

// Rows worked on at once, which bounds the memory between the phases. Experts that few of them chose are read again
// for the next ones.
constexpr int64_t kMoeChunk = 1024;

enum class ExpertPart : int { gate, up, down };

// Adapters of experts: an expert's gate, up and down are targets of their own.
struct ExpertTargets {
    const int32_t* targets = nullptr;  // [3][experts], -1: no adapter changes it
    int64_t rank = 0;                  // the largest of any adapter here; 0: none
    // of a step in which rows have adapters, else null
    const int32_t* adapter_of = nullptr;  // [rows] one of the tables, -1: none
    const int32_t* order = nullptr;       // [rows] within each chunk, those of one adapter behind each other
    const LoraTable* tables = nullptr;

    int target(ExpertPart part, int64_t expert, int64_t experts) const {
        return targets[static_cast<int>(part) * experts + expert];
    }
};

// p = softmax(router row); the top_k largest (the lowest index of equals), divided by their sum if `renormalise`;
// y = sum over them, by index, of p_e * down_e(activation(x gate_e^T) * (x up_e^T)),
// where each of the three products has scale * B (A its input) added for rows whose adapter says so.
struct MoeArgs {
    int64_t rows, hidden, width, experts, top_k;
    bool renormalise;
    Activation activation;
    Act act, act_up, act_down;  // what the inputs of gate, up and down are turned into
    bool apart;                 // gate and up need their inputs in different forms
    const Matrix* gate;         // [experts] of [width, hidden]
    const Matrix* up;
    const Matrix* down;  // [experts] of [hidden, width]
    Rows x, router;
    float* y;  // neither x nor router
    int64_t ldy;
    ExpertTargets loras;
    std::byte* shared;                      // moe_shared_bytes(most rows), 64-byte aligned
    int64_t prepared_bytes, scratch_bytes;  // of a row's input, and of a linear: what measure_experts says
};
void moe(const Kernels&, const MoeArgs&, const Worker&);
// What the experts' matrices need, before anything else is asked of `args`.
void measure_experts(MoeArgs& args);
// Sizes and activations of `args` count, not its pointers.
int64_t moe_shared_bytes(const MoeArgs& args, int64_t rows);
int64_t moe_scratch_bytes(const MoeArgs& args, int64_t rows);  // private, of each worker

}  // namespace penstock
