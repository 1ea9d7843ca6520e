// The op moe of a plan: its experts are matrices that were added one after the other.
#include <memory>
#include <stdexcept>

#include "ops/moe.h"
#include "plan.h"

namespace penstock {
namespace {

constexpr int64_t kMostExperts = 1 << 16;

void need(bool ok, const char* message) {
    if (!ok) throw std::invalid_argument(message);
}

struct Experts {
    std::vector<Matrix> gate, up, down;
};

}  // namespace

void Plan::moe(const MoeSpec& spec, int x, int router, int y) {
    const Slot in = slot(x), scores = slot(router), out = slot(y);
    need(spec.experts > 0 && spec.experts <= kMostExperts && spec.top_k > 0 && spec.top_k <= spec.experts,
         "moe: top_k must be from 1 to the number of experts");
    need(scores.width == spec.experts && scores.logits == in.logits, "moe: the router does not fit the experts");
    need(out.width == in.width && out.logits == in.logits, "moe: input and output differ in shape");
    need(spec.activation != Activation::none, "moe: which activation");
    const auto experts = std::make_shared<Experts>();
    for (int e = 0; e < static_cast<int>(spec.experts); e++) {
        experts->gate.push_back(executor_.matrix(spec.gate + e));
        experts->up.push_back(executor_.matrix(spec.up + e));
        experts->down.push_back(executor_.matrix(spec.down + e));
    }
    const Matrix &gate = experts->gate[0], &up = experts->up[0], &down = experts->down[0];
    const auto like = [](const Matrix& m, const Matrix& first, int64_t n, int64_t k) {
        need(m.format == first.format && m.n == n && m.k == k, "moe: the experts differ in shape or format");
        need(m.quant.group == first.quant.group, "moe: the experts differ in the groups of their inputs");
    };
    const auto quantised = [](const Matrix& m) { return m.format == Format::quantised; };
    bool apart = spec.act != spec.act_up || quantised(gate) != quantised(up);
    for (size_t e = 0; e < experts->gate.size(); e++) {
        like(experts->gate[e], gate, gate.n, in.width);
        like(experts->up[e], up, gate.n, in.width);
        apart = apart || !experts->gate[e].quant.same_inputs(experts->up[e].quant);
        like(experts->down[e], down, in.width, gate.n);
    }
    const auto fits = [&](const Matrix& m, Act act) {
        need(quantised(m) ? act == Act::f32 || (act == Act::i8 && m.quant.codes != CodeKind::e4m3) : act != Act::i8,
             "moe: no such inputs for these weights");
    };
    fits(gate, spec.act);
    fits(up, spec.act_up);
    fits(down, spec.act_down);
    MoeArgs args{};
    args.hidden = in.width;
    args.width = gate.n;
    args.experts = spec.experts;
    args.top_k = spec.top_k;
    args.renormalise = spec.renormalise;
    args.activation = spec.activation;
    args.act = spec.act;
    args.act_up = spec.act_up;
    args.apart = apart;
    args.act_down = spec.act_down;
    args.gate = experts->gate.data();
    args.up = experts->up.data();
    args.down = experts->down.data();
    const ExpertLoraOp* loras = take_targets(spec, in.width, gate.n);
    if (loras != nullptr) args.loras = expert_targets(*loras, in.logits);
    measure_experts(args);
    need_shared(moe_shared_bytes(args, most_rows(in)));
    need_scratch(moe_scratch_bytes(args, most_rows(in)));
    add(in.logits, [this, args, experts, loras, in, scores, out](const State& s, const Worker& w) {
        MoeArgs a = args;
        a.rows = s.rows[in.logits];
        a.x = rows(s, in);
        a.router = rows(s, scores);
        a.y = at(s, out);
        a.ldy = out.ld;
        a.shared = shared_data_;
        if (loras != nullptr) a.loras = expert_targets(*loras, in.logits);
        penstock::moe(executor_.kernels(), a, w);
    });
}

}  // namespace penstock
