// Plan: building it op by op, and running steps. Arrays are checked here, values by Plan itself.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <map>
#include <string>
#include <tuple>

#include "bind.h"
#include "bind_batch.h"
#include "plan.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace penstock {
namespace {

template <class T>
T named(const std::map<std::string, T>& names, const std::string& name, const char* what) {
    const auto found = names.find(name);
    if (found == names.end()) throw nb::value_error(("unknown " + std::string(what) + " '" + name + "'").c_str());
    return found->second;
}

NormKind norm_kind(const std::string& name) {
    return named<NormKind>({{"none", NormKind::none}, {"rms", NormKind::rms}, {"layer", NormKind::layer}}, name,
                           "norm");
}

Activation activation(const std::string& name) {
    using A = Activation;
    return named<A>(
        {{"", A::none}, {"silu", A::silu}, {"gelu", A::gelu}, {"gelu_tanh", A::gelu_tanh}, {"relu", A::relu}}, name,
        "activation");
}

Act input_kind(const std::string& name) {
    return named<Act>({{"f32", Act::f32}, {"bf16", Act::bf16}, {"i8", Act::i8}}, name, "kind of inputs");
}

LengthRule length_rule(const std::string& name) {
    using L = LengthRule;
    return named<L>({{"none", L::none}, {"dynamic", L::dynamic}, {"longrope", L::longrope}, {"qwen_ntk", L::qwen_ntk}},
                    name, "length rule");
}

ElementwiseArgs::Kind elementwise_kind(const std::string& name) {
    using K = ElementwiseArgs::Kind;
    return named<K>({{"add", K::add},
                     {"scale", K::scale},
                     {"gated", K::gated},
                     {"activation", K::activation},
                     {"gate", K::gate},
                     {"softcap", K::softcap}},
                    name, "elementwise op");
}

// norm, eps, plus_one, weight, bias
using NormTuple = std::tuple<std::string, float, bool, int, int>;
NormSpec norm_spec(const NormTuple& t) {
    return {norm_kind(std::get<0>(t)), std::get<1>(t), std::get<2>(t), std::get<3>(t), std::get<4>(t)};
}

// head_dim, dim, start, interleaved
using RopeTuple = std::tuple<int64_t, int64_t, int64_t, bool>;
RopeSpec rope_spec(const RopeTuple& t) { return {std::get<0>(t), std::get<1>(t), std::get<2>(t), std::get<3>(t)}; }

struct Outputs {
    Plan::Wanted wanted;
    SamplingBatch sampling;
};

// A Plan, and the arrays of its last step.
class PlanObject {
  public:
    PlanObject(Executor& executor, int64_t token_columns, int64_t logits_columns)
        : plan(executor, token_columns, logits_columns) {}

    void step(nb::handle batch, nb::handle output) {
        held_.restart();
        const Batch b = read_batch(held_, batch);
        Outputs out = outputs(b, batch, output);
        if (out.sampling.row.data != nullptr) out.wanted.sampling = &out.sampling;
        {
            nb::gil_scoped_release release;
            plan.step(b, out.wanted);
        }
    }

    void forward(nb::handle batch, nb::handle output) {
        const Batch b = hold(batch, output);
        nb::gil_scoped_release release;
        plan.forward(b, out_.wanted);
    }

    void begin(nb::handle batch, nb::handle output) {
        const Batch b = hold(batch, output);
        nb::gil_scoped_release release;
        plan.begin(b, out_.wanted);
    }

    void run_op(int op) {
        nb::gil_scoped_release release;
        plan.run_op(op);
    }

    void end() {
        {
            nb::gil_scoped_release release;
            plan.end(out_.wanted);
        }
        output_ = nb::object();
    }

    Plan plan;

  private:
    // Reads a step that goes on beyond this call.
    Batch hold(nb::handle batch, nb::handle output) {
        held_.restart();
        const Batch b = read_batch(held_, batch);
        out_ = outputs(b, batch, output);
        if (out_.sampling.row.data != nullptr) out_.wanted.sampling = &out_.sampling;
        output_ = nb::borrow(output);
        return b;
    }

    Outputs outputs(const Batch& b, nb::handle batch, nb::handle output) {
        Outputs out;
        Plan::Wanted& w = out.wanted;
        w.logits = place(output, "logits", {b.rows(), plan.vocab()});
        w.hidden = place(output, "hidden", {b.tokens(), plan.hidden_width()});
        nb::object sampling = batch.attr("sampling");
        if (sampling.is_none()) return out;
        out.sampling = read_sampling(held_, sampling);
        w.sample = read_sample_output(output, out.sampling.size());
        return out;
    }

    Arrays held_;
    Outputs out_;
    nb::object output_;
};

using PlanClass = nb::class_<PlanObject>;

void bind_build(PlanClass& c) {
    c.def(
        "value",
        [](PlanObject& o, int64_t column, int64_t width, bool logits) { return o.plan.value(column, width, logits); },
        "column"_a, "width"_a, "logits"_a);
    c.def("embed", [](PlanObject& o, int table, float scale, int y) { o.plan.embed(table, scale, y); });
    c.def("embed_positions", [](PlanObject& o, int table, int channel, int64_t offset, int y) {
        o.plan.embed_positions(table, channel, offset, y);
    });
    c.def("norm", [](PlanObject& o, const NormTuple& n, int64_t group, int x, int y) {
        o.plan.norm(norm_spec(n), group, x, y);
    });
    c.def("linear", [](PlanObject& o, const NormTuple& n, const std::string& input, const std::string& act, int x,
                       int residual, const std::vector<std::tuple<int, int, int>>& parts) {
        std::vector<LinearPartSpec> specs;
        for (const auto& [weight, bias, y] : parts) specs.push_back({weight, bias, y});
        o.plan.linear(norm_spec(n), input_kind(input), activation(act), x, residual, specs);
    });
    c.def("angles", [](PlanObject& o, int channel, int64_t dim, int inv_freq, int inv_freq_long, float scale,
                       float scale_long, const std::string& rule, float theta, float factor, int64_t original, int y) {
        o.plan.angles(
            {channel, dim, inv_freq, inv_freq_long, scale, scale_long, length_rule(rule), theta, factor, original}, y);
    });
    c.def("rope", [](PlanObject& o, const RopeTuple& r, int x, int cs, int y) { o.plan.rope(rope_spec(r), x, cs, y); });
    c.def("store", [](PlanObject& o, int layer, int k, int v) { o.plan.store(layer, k, v); });
    c.def("qk_rope_store", [](PlanObject& o, int layer, const RopeTuple& r, const NormTuple& qn, const NormTuple& kn,
                              int q, int k, int v, int cs, int y) {
        o.plan.qk_rope_store(layer, rope_spec(r), norm_spec(qn), norm_spec(kn), q, k, v, cs, y);
    });
    c.def("attention", [](PlanObject& o, int layer, int64_t heads, float scale, float softcap, int64_t window,
                          int64_t log_n, int alibi, bool bidirectional, int q, int y) {
        o.plan.attention({layer, heads, scale, softcap, window, log_n, alibi, bidirectional}, q, y);
    });
    c.def("elementwise", [](PlanObject& o, const std::string& kind, const std::string& act, float factor, int a, int b,
                            int y) { o.plan.elementwise(elementwise_kind(kind), activation(act), factor, a, b, y); });
    c.def("moe", [](PlanObject& o, int64_t experts, int64_t top_k, bool renormalise, const std::string& act,
                    const std::tuple<int, int, int>& first,
                    const std::tuple<std::string, std::string, std::string>& inputs, const std::vector<int>& targets,
                    int64_t rank, int x, int router, int y) {
        const auto& [gate, up, down] = first;
        o.plan.moe({experts, top_k, renormalise, activation(act), input_kind(std::get<0>(inputs)),
                    input_kind(std::get<1>(inputs)), input_kind(std::get<2>(inputs)), gate, up, down, targets, rank},
                   x, router, y);
    });
    c.def("select", [](PlanObject& o, int x, int y) { o.plan.select(x, y); });
    c.def("lora",
          [](PlanObject& o, int target, int64_t rank, int x, int y, int z) { o.plan.lora(target, rank, x, y, z); });
    c.def("finish", [](PlanObject& o, int logits, int hidden) {
        o.plan.outputs(logits, hidden);
        o.plan.finish();
    });
}

}  // namespace

void bind_plan(nb::module_& m) {
    PlanClass c(m, "Plan", "A program laid out in memory; see csrc/plan.h.");
    c.def(nb::init<Executor&, int64_t, int64_t>(), "executor"_a, "token_columns"_a, "logits_columns"_a,
          nb::keep_alive<1, 2>());
    bind_build(c);
    c.def("step", &PlanObject::step, "batch"_a, "output"_a,
          "One step: reads a penstock.types.Batch, fills the arrays of a StepOutput. Runs without the GIL.");
    c.def("forward", &PlanObject::forward, "batch"_a, "output"_a,
          "A step up to its logits, without the GIL; `end` is to follow. Masks may be filled in between.");
    c.def("begin", &PlanObject::begin, "batch"_a, "output"_a);
    c.def("run_op", &PlanObject::run_op, "op"_a);
    c.def("end", &PlanObject::end);
    c.def(
        "view",
        [](nb::handle self, int value) {
            const View v = nb::cast<PlanObject&>(self).plan.view(value);
            return nb::ndarray<nb::numpy, float, nb::ndim<2>>(
                v.data, {static_cast<size_t>(v.rows), static_cast<size_t>(v.width)}, self, {v.ld, 1});
        },
        "value"_a, "A value [rows, width] as the last op left it; a view.");
    c.def_prop_ro("ops", [](PlanObject& o) { return o.plan.ops(); });
    c.def_prop_ro("vocab", [](PlanObject& o) { return o.plan.vocab(); });
    c.def_prop_ro("hidden_width", [](PlanObject& o) { return o.plan.hidden_width(); });
    c.def_prop_ro("workspace_bytes", [](PlanObject& o) { return o.plan.workspace_bytes(); });
}

}  // namespace penstock
