// The ops of a plan: each checks its shapes once, here, and leaves a closure that fills in the step's pointers.
#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "plan.h"

namespace penstock {
namespace {

void need(bool ok, const char* message) {
    if (!ok) throw std::invalid_argument(message);
}

void need_rope(const RopeSpec& r) {
    need(r.head_dim > 0 && r.dim >= 0 && r.dim % 2 == 0 && r.start >= 0 && r.start + r.dim <= r.head_dim,
         "a rotation must be an even number of elements inside a head");
}

}  // namespace

void Plan::embed(int table, float scale, int y) {
    const Slot out = slot(y);
    const Matrix m = executor_.matrix(table);
    need(m.k == out.width && !out.logits, "embed: the table's rows do not fit the value");
    needs_.vocab = std::min(needs_.vocab, m.n);
    embed_width_ = out.width;
    add(false, [this, out, m, scale](const State& s, const Worker& w) {
        if (s.batch.embeds != nullptr) {
            int64_t begin, end;
            w.range(s.rows[0], begin, end);
            for (int64_t i = begin; i < end; i++) {
                std::memcpy(at(s, out) + i * out.ld, s.batch.embeds + i * out.width, out.width * sizeof(float));
            }
            return;
        }
        penstock::embed(executor_.kernels(), {s.batch.token_ids.data, s.rows[0], m, scale, at(s, out), out.ld}, w);
    });
}

void Plan::embed_positions(int table, int channel, int64_t offset, int y) {
    const Slot out = slot(y);
    const Matrix m = executor_.matrix(table);
    need(m.k == out.width && !out.logits, "embed_positions: the table's rows do not fit the value");
    need(offset >= 0 && offset < m.n, "embed_positions: the offset lies outside the table");
    int64_t& bound = needs_.positions_below[use_channel(channel)];
    bound = bound == 0 ? m.n - offset : std::min(bound, m.n - offset);
    const int32_t* rows = derive(channel, offset, LengthRule::none);
    add(false, [this, out, m, rows](const State& s, const Worker& w) {
        penstock::embed(executor_.kernels(), {rows, s.rows[0], m, 1.0f, at(s, out), out.ld}, w);
    });
}

void Plan::norm(const NormSpec& spec, int64_t group, int x, int y) {
    const Slot in = slot(x), out = slot(y);
    need(in.width == out.width && in.logits == out.logits, "norm: input and output differ in shape");
    need(spec.kind != NormKind::none, "norm: which kind");
    need(group >= 0 && in.width % (group > 0 ? group : in.width) == 0, "norm: the row is no multiple of the group");
    const int64_t step = group > 0 ? group : in.width;
    const bool shared = executor_.vector(spec.weight).size != in.width;
    if (shared || step == in.width) {
        const Norm norm = norm_of(spec, step);
        add(out.logits, [this, in, out, norm, group](const State& s, const Worker& w) {
            penstock::norm(executor_.kernels(),
                           {norm, s.rows[out.logits], out.width, group, rows(s, in), at(s, out), out.ld}, w);
        });
        return;
    }
    const Norm whole = norm_of(spec, in.width);  // every group has a weight of its own
    add(out.logits, [this, in, out, whole, step](const State& s, const Worker& w) {
        const Rows x = rows(s, in);
        for (int64_t i = 0; i < out.width; i += step) {
            Norm norm = whole;
            norm.weight += i;
            if (norm.bias != nullptr) norm.bias += i;
            penstock::norm(executor_.kernels(),
                           {norm, s.rows[out.logits], step, 0, {x.data + i, x.ld}, at(s, out) + i, out.ld}, w);
        }
    });
}

void Plan::linear(const NormSpec& norm, Act act, Activation activation, int x, int residual,
                  const std::vector<LinearPartSpec>& parts) {
    const Slot in = slot(x);
    need(!parts.empty() && parts.size() <= kMaxParts, "linear: one to four parts");
    LinearArgs args{};
    args.norm = norm_of(norm, in.width);
    args.act = act;
    args.activation = activation;
    args.k = in.width;
    args.parts = static_cast<int>(parts.size());
    const bool gated = activation != Activation::none;
    need(!gated || (parts.size() == 2 && residual < 0), "linear: an activation takes two parts and no residual");
    need(residual < 0 || parts.size() == 1, "linear: a residual takes one part");
    std::vector<Slot> outs;
    for (size_t i = 0; i < parts.size(); i++) {
        const Matrix& m = executor_.matrix(parts[i].weight);
        need(m.k == in.width, "linear: the weight's inputs do not fit the value");
        args.part[i] = {m, vector_of(parts[i].bias, m.n, "a linear's bias").data, nullptr, 0};
        const bool stored = !gated || i == 0;
        need(stored == (parts[i].y >= 0), "linear: an activation stores its first part only");
        outs.push_back(stored ? slot(parts[i].y) : Slot{});
        need(!stored || (outs[i].width == m.n && outs[i].logits == in.logits),
             "linear: an output does not fit its weight");
    }
    need(!gated || args.part[0].weight.n == args.part[1].weight.n, "linear: gate and up differ in shape");
    const Matrix& first = args.part[0].weight;
    for (const LinearPart& part : args.part) {
        if (part.weight.data == nullptr) continue;
        const bool quantised = part.weight.format == Format::quantised;
        need(quantised == (first.format == Format::quantised) &&
                 (!quantised || first.quant.same_inputs(part.weight.quant)),
             "linear: the parts need different inputs");
        need(quantised ? act != Act::bf16 : act != Act::i8, "linear: no such inputs for this weight");
        need(act != Act::i8 || part.weight.quant.codes != CodeKind::e4m3, "linear: fp8 weights meet floats only");
    }
    const bool adds = residual >= 0;
    const Slot kept = adds ? slot(residual) : Slot{};
    need(!adds || (kept.width == outs[0].width && kept.logits == in.logits), "linear: the residual does not fit");
    need_shared(linear_shared_bytes(first, act, most_rows(in)));
    need_scratch(linear_scratch_bytes(first, act));
    add(in.logits, [this, args, in, outs, adds, kept](const State& s, const Worker& w) {
        LinearArgs a = args;
        a.x = rows(s, in);
        a.rows = s.rows[in.logits];
        for (int i = 0; i < a.parts; i++) {
            if (outs[i].ld == 0) continue;
            a.part[i].y = at(s, outs[i]);
            a.part[i].ldy = outs[i].ld;
        }
        if (adds) a.residual = rows(s, kept);
        a.shared = shared_data_;
        penstock::linear(executor_.kernels(), a, w);
    });
}

void Plan::angles(const AnglesSpec& spec, int y) {
    const Slot out = slot(y);
    need(spec.dim > 0 && spec.dim % 2 == 0 && spec.dim == out.width && !out.logits, "angles: the value does not fit");
    AnglesArgs args{};
    args.dim = spec.dim;
    args.inv_freq = vector_of(spec.inv_freq, spec.dim / 2, "inv_freq").data;
    args.inv_freq_long = vector_of(spec.inv_freq_long, spec.dim / 2, "inv_freq_long").data;
    need(args.inv_freq != nullptr, "angles: no frequencies");
    need(spec.rule != LengthRule::longrope || args.inv_freq_long != nullptr, "angles: longrope needs long frequencies");
    need(spec.rule == LengthRule::none || spec.original > 0, "angles: a length rule needs the original length");
    args.scale = spec.scale;
    args.scale_long = spec.scale_long;
    args.rule = spec.rule;
    args.theta = spec.theta;
    args.factor = spec.factor;
    args.original = spec.original;
    const int64_t channel = use_channel(spec.channel);
    if (spec.rule != LengthRule::none) args.lengths = derive(channel, 0, spec.rule);
    add(false, [this, out, args, channel](const State& s, const Worker& w) {
        AnglesArgs a = args;
        a.rows = s.rows[0];
        a.positions = s.batch.positions + channel * a.rows;
        a.y = at(s, out);
        a.ldy = out.ld;
        penstock::angles(executor_.kernels(), a, w);
    });
}

void Plan::rope(const RopeSpec& r, int x, int cs, int y) {
    const Slot in = slot(x), angles = slot(cs), out = slot(y);
    need_rope(r);
    need(in.width == out.width && in.width % r.head_dim == 0 && in.logits == out.logits,
         "rope: input and output differ");
    need(angles.width == r.dim && angles.logits == in.logits, "rope: the angles do not fit");
    add(out.logits, [this, r, in, angles, out](const State& s, const Worker& w) {
        penstock::rope(executor_.kernels(),
                       {s.rows[out.logits], in.width / r.head_dim, r.head_dim, r.dim, r.start, r.interleaved,
                        rows(s, in), rows(s, angles), at(s, out), out.ld},
                       w);
    });
}

void Plan::store(int layer, int k, int v) {
    const Slot key = slot(k), value = slot(v);
    const KVLayer cache = executor_.layer(layer);
    const int64_t width = cache.kv_heads * cache.head_dim;
    need(key.width == width && value.width == width && !key.logits && !value.logits,
         "store: keys do not fit the cache");
    add(false, [this, key, value, cache](const State& s, const Worker& w) {
        penstock::store(executor_.kernels(), {s.rows[0], rows(s, key), rows(s, value), s.batch.slots.data, cache}, w);
    });
}

void Plan::qk_rope_store(int layer, const RopeSpec& r, const NormSpec& q_norm, const NormSpec& k_norm, int q, int k,
                         int v, int cs, int y) {
    const Slot query = slot(q), key = slot(k), value = slot(v), out = slot(y);
    const KVLayer cache = executor_.layer(layer);
    const int64_t width = cache.kv_heads * cache.head_dim;
    need_rope(r);
    need(r.head_dim == cache.head_dim, "qk_rope_store: head_dim is not the cache's");
    need(key.width == width && value.width == width && !key.logits && !value.logits, "qk_rope_store: keys do not fit");
    need(query.width % r.head_dim == 0 && query.width == out.width && !query.logits && !out.logits,
         "qk_rope_store: queries do not fit");
    const bool rotates = cs >= 0;
    need(rotates == (r.dim > 0), "qk_rope_store: a rotation needs angles");
    const Slot angles = rotates ? slot(cs) : Slot{};
    need(!rotates || (angles.width == r.dim && !angles.logits), "qk_rope_store: the angles do not fit");
    QkRopeStoreArgs args{};
    args.heads = query.width / r.head_dim;
    args.kv_heads = cache.kv_heads;
    args.head_dim = r.head_dim;
    args.dim = r.dim;
    args.start = r.start;
    args.interleaved = r.interleaved;
    args.q_norm = norm_of(q_norm, r.head_dim);
    args.k_norm = norm_of(k_norm, r.head_dim);
    args.cache = cache;
    add(false, [this, args, query, key, value, rotates, angles, out](const State& s, const Worker& w) {
        QkRopeStoreArgs a = args;
        a.rows = s.rows[0];
        a.q = rows(s, query);
        a.k = rows(s, key);
        a.v = rows(s, value);
        a.cs = rotates ? rows(s, angles) : Rows{nullptr, 0};
        a.slots = s.batch.slots.data;
        a.y = at(s, out);
        a.ldy = out.ld;
        penstock::qk_rope_store(executor_.kernels(), a, w);
    });
}

void Plan::attention(const AttentionSpec& spec, int q, int y) {
    const Slot query = slot(q), out = slot(y);
    const KVLayer cache = executor_.layer(spec.layer);
    need(spec.heads > 0 && spec.heads % cache.kv_heads == 0, "attention: heads must be a multiple of kv_heads");
    need(query.width == spec.heads * cache.head_dim && out.width == query.width && !query.logits && !out.logits,
         "attention: queries do not fit");
    need(spec.window >= 0 && spec.log_n >= 0, "attention: window and log_n must not be negative");
    const float* alibi = vector_of(spec.alibi, spec.heads, "alibi").data;
    const Limits& limits = executor_.limits();
    need_scratch(attention_scratch_bytes(spec.heads, cache.kv_heads, cache.head_dim));
    need_shared(
        attention_shared_bytes(spec.heads, cache.kv_heads, cache.head_dim, limits.max_context, executor_.threads()));
    add(false, [this, spec, query, out, cache, alibi](const State& s, const Worker& w) {
        const Batch& b = s.batch;
        penstock::attention(executor_.kernels(),
                            {b.seqs(),
                             spec.heads,
                             cache.kv_heads,
                             cache.head_dim,
                             b.query_start.data,
                             b.context_lens.data,
                             b.block_tables,
                             b.table_ld,
                             spec.bidirectional ? b.bidirectional.data : nullptr,
                             b.positions,
                             spec.scale,
                             spec.softcap,
                             spec.window,
                             spec.log_n,
                             alibi,
                             rows(s, query),
                             cache,
                             at(s, out),
                             out.ld,
                             shared_data_},
                            w);
    });
}

void Plan::elementwise(ElementwiseArgs::Kind kind, Activation activation, float factor, int a, int b, int y) {
    using Kind = ElementwiseArgs::Kind;
    const bool two = kind == Kind::add || kind == Kind::gated || kind == Kind::gate;
    const Slot first = slot(a), second = two ? slot(b) : Slot{}, out = slot(y);
    need(first.width == out.width && first.logits == out.logits, "elementwise: input and output differ in shape");
    need(!two || (second.width == (kind == Kind::gate ? 1 : out.width) && second.logits == out.logits),
         "elementwise: the second input does not fit");
    need((kind != Kind::gated && kind != Kind::activation) || activation != Activation::none,
         "elementwise: which activation");
    add(out.logits, [this, kind, activation, factor, first, two, second, out](const State& s, const Worker& w) {
        penstock::elementwise(executor_.kernels(),
                              {kind, activation, factor, s.rows[out.logits], out.width, rows(s, first),
                               two ? rows(s, second) : Rows{nullptr, 0}, at(s, out), out.ld},
                              w);
    });
}

void Plan::select(int x, int y) {
    const Slot in = slot(x), out = slot(y);
    need(in.width == out.width && !in.logits && out.logits, "select: from tokens to rows of logits of the same width");
    add(true, [this, in, out](const State& s, const Worker& w) {
        penstock::select(executor_.kernels(),
                         {s.batch.logits_rows.data, s.rows[1], out.width, rows(s, in), at(s, out), out.ld}, w);
    });
}

}  // namespace penstock
