// An `hpu` device in host memory: every operator runs on the CPU, and what a real device would find costly is counted.
//
// What stock PyTorch needs for that: kernels that allocate, copy and view; a boxed fallback for the rest; a device guard; the
// hooks class HPUHooks; and wrappers for autocast, of which core registers none for this device.

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/SDPBackend.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/stack.h>
#include <ATen/detail/HPUHooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>

#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>

namespace {

constexpr auto HPU = c10::DeviceType::HPU;

// ---- What is counted.

std::recursive_mutex mutex;
using Lock = std::lock_guard<std::recursive_mutex>;
int64_t d2h = 0, scalars = 0, pinned = 0, compilations = 0, most_nodes = 0, in_use = 0, most_used = 0, limit = 0;
bool lazy = false, has_fp16 = true, tanh_gelu = true, capturing = false;
std::set<size_t> compiled;   // Hashes of the graphs that have run.
std::string recipes;         // Folder of those that any process has compiled; empty: none.
std::set<std::string> fallbacks;
thread_local bool inside = false;  // In a fallback, whose own copies do not count.

struct Inside {
  bool before = inside;
  Inside() { inside = true; }
  ~Inside() { inside = before; }
};

// ---- The graph that lazy mode records until it is flushed: its hash, and the memory that running it takes.
//
// Nodes run in the order in which they were recorded. A tensor that was there before is held until the graph has run; one that the
// graph makes takes memory from its node to the last one that reads it, or stays if it still exists at the flush. A node that
// computes what another of this graph has computed is merged with it, as by torch::jit::EliminateCommonSubexpression in
// habana_lazy/hlexec.cpp (gaudi-pytorch-bridge@5a56187): then the first result lives until the last use of both.

constexpr size_t NONE = -1;

struct Block {  // At the head of a tensor's memory.
  size_t bytes, value, graph, span;
};

struct Span {  // What a graph does with a block.
  int64_t bytes, born, used;
  bool exists = true;
  size_t twin = NONE;  // The span of an equal node's result.
};

size_t graph = 1, hash = 0, last_value = 0;
int64_t nodes = 0, released = 0;
std::vector<Span> spans;
std::unordered_map<size_t, size_t> results;  // Hash of a result -> its span.

size_t mix(size_t a, size_t b) { return a * 1000003 ^ b; }

Span& span_of(Block& block, int64_t born) {
  if (block.graph != graph) {
    block.graph = graph;
    block.span = spans.size();
    spans.push_back({static_cast<int64_t>(block.bytes), born, nodes});
  }
  return spans[block.span];
}

void use(Block& block) {
  for (size_t at = (span_of(block, -1), block.span); at != NONE; at = spans[at].twin) spans[at].used = nodes;
}

void check_room(int64_t peak, int64_t bytes) {
  TORCH_CHECK(peak <= limit, "FATAL ERROR :: MODULE:PT_DEVMEM Allocation failed for size::", bytes);
}

// Whether a graph must be compiled: not where a file of the disk cache has it (habana_serialization/recipe_cache.cpp@5a56187).
bool must_compile(size_t key) {
  if (!compiled.insert(key).second) return false;
  if (recipes.empty()) return true;
  const std::string path = recipes + "/" + std::to_string(key) + ".recipe";
  if (std::ifstream(path)) return false;
  std::ofstream(path) << key;
  return true;
}

bool flush() {
  Lock lock(mutex);
  std::vector<int64_t> change(nodes + 2);
  int64_t kept = 0, most = 0, now = 0;
  for (const Span& span : spans) {
    if (span.born < 0 || (span.twin != NONE && !span.exists)) continue;
    change[span.twin == NONE ? span.born : nodes] += span.bytes;
    if (span.exists) kept += span.bytes;
    else change[span.used + 1] -= span.bytes;
  }
  for (const int64_t bytes : change) most = std::max(most, now += bytes);
  const bool fresh = lazy && hash && must_compile(hash);
  compilations += fresh;
  most_nodes = std::max(most_nodes, nodes);
  const int64_t peak = in_use + most;
  most_used = std::max(most_used, peak);
  in_use += kept - released;
  graph++;
  hash = nodes = released = 0;
  spans.clear();
  results.clear();
  check_room(peak, most);
  return fresh;
}

void note(const std::string& what) {
  Lock lock(mutex);
  nodes++;
  hash = mix(hash, std::hash<std::string>{}(what));
}

// ---- Memory.

struct HostAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    Lock lock(mutex);
    check_room(static_cast<int64_t>(bytes) + (lazy ? 0 : in_use), bytes);
    auto* block = new (c10::alloc_cpu(bytes + 64)) Block{bytes, ++last_value, 0, 0};
    if (lazy) {
      span_of(*block, nodes);
    } else {
      in_use += bytes;
      most_used = std::max(most_used, in_use);
    }
    return {reinterpret_cast<char*>(block) + 64, block, &free, c10::Device(HPU, 0)};
  }
  static void free(void* memory) {
    auto* block = static_cast<Block*>(memory);
    {
      Lock lock(mutex);
      if (block->graph != graph) {
        in_use -= block->bytes;
      } else {
        spans[block->span].exists = false;
        if (spans[block->span].born < 0) released += block->bytes;
      }
    }
    c10::free_cpu(block);
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
} allocator;

Block& block_of(const at::Tensor& t) { return *static_cast<Block*>(t.storage().data_ptr().get_context()); }

void describe(std::ostream& out, const c10::IValue& value) {
  if (value.isTensor()) {
    const auto& t = value.toTensor();
    if (t.defined()) out << t.scalar_type() << t.sizes() << t.is_cpu();
    if (t.defined() && t.unsafeGetTensorImpl()->is_wrapped_number()) out << t.item();
  } else if (value.isList()) {
    out << '[';
    for (const c10::IValue& item : value.toListRef()) describe(out, item);
    out << ']';
  } else if (value.isInt() || value.isDouble() || value.isBool() || value.isString()) {
    out << value;
  }
}

// The tensors of the device in `value`.
template <class Function> void each(const c10::IValue& value, const Function& function) {
  if (value.isTensor() && value.toTensor().defined() && value.toTensor().device().type() == HPU) {
    function(value.toTensor());
  } else if (value.isList() && !value.isIntList() && !value.isDoubleList() && !value.isBoolList()) {
    for (const c10::IValue& item : value.toListRef()) each(item, function);
  }
}

// A recorded operator: first what it reads, then what it gives or overwrites.
class Node {
 public:
  Node(const std::string& what, bool merges) : merges(merges) {
    if (!lazy) return;
    note(what);
    key = std::hash<std::string>{}(what);
    if (!merges) key = mix(key, ++last_value);
  }
  void reads(const at::Tensor& t) {
    if (!lazy) return;
    Lock lock(mutex);
    Block& block = block_of(t);
    use(block);
    key = mix(mix(key, block.value), t.storage_offset());
    for (const int64_t step : t.strides()) key = mix(key, step);
  }
  void gives(const at::Tensor& t, bool in_place = false) {
    if (!lazy) return;
    Lock lock(mutex);
    Block& block = block_of(t);
    Span& span = span_of(block, -1);
    block.value = mix(key, ++results_given);
    if (in_place && span.twin != NONE) span = {span.bytes, nodes, nodes};
    if (in_place || span.born < 0) return use(block);
    span.born = span.used = nodes;
    span.twin = NONE;
    if (merges) {
      const auto [found, is_new] = results.emplace(block.value, block.span);
      if (!is_new) span.twin = found->second;
    }
  }

 private:
  bool merges;
  size_t key = 0, results_given = 0;
};

void check_dtype(c10::ScalarType dtype) {
  TORCH_CHECK(dtype != at::kDouble && !c10::isComplexType(dtype), "hpu: ", dtype, " is not supported");
  TORCH_CHECK(has_fp16 || dtype != at::kHalf, "hpu: Half is not supported by the first generation");
}

void check_write(const at::Tensor& t) {
  TORCH_CHECK(!(capturing && t.is_view()), "in-place view updates are not supported during hpu graph capturing");
}

at::Tensor empty(c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  check_dtype(c10::dtype_or_default(dtype));
  return at::detail::empty_generic_symint(size, &allocator, c10::DispatchKeySet(c10::DispatchKey::HPU),
                                          c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  check_dtype(c10::dtype_or_default(dtype));
  return at::detail::empty_strided_symint_generic(size, stride, &allocator, c10::DispatchKeySet(c10::DispatchKey::HPU),
                                                  c10::dtype_or_default(dtype));
}

// Page-locked memory of the host: ordinary memory whose blocks are known.
std::set<const void*> locked;

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* block = c10::alloc_cpu(bytes);
    Lock lock(mutex);
    locked.insert(block);
    return {block, block, &free, c10::Device(c10::kCPU)};
  }
  static void free(void* block) {
    {
      Lock lock(mutex);
      locked.erase(block);
    }
    c10::free_cpu(block);
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
} pinned_allocator;

bool is_locked(const void* data) {
  Lock lock(mutex);
  return locked.count(data);
}

// The same memory as a CPU tensor.
at::Tensor host(const at::Tensor& t) {
  return at::from_blob(t.data_ptr(), t.sizes(), t.strides(), [t](void*) {}, t.options().device(at::kCPU));
}

// Whether a tensor is all of its memory.
bool whole(const at::Tensor& t) { return t.is_non_overlapping_and_dense() && t.nbytes() == block_of(t).bytes; }

// ---- Copies. One from the host is an input of the graph, not a node.

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  if (!inside) {
    if (to.is_cpu()) {
      d2h++;
      flush();
    } else {
      check_write(to);
      pinned += from.is_cpu() && is_locked(from.storage().data());
    }
    if (!to.is_cpu() && !from.is_cpu()) {
      std::ostringstream text;
      text << "copy" << from.scalar_type() << to.scalar_type() << to.sizes() << to.strides();
      Node node(text.str(), true);
      node.reads(from);
      node.gives(to, /*in_place=*/!whole(to));
    }
    if (lazy && from.is_cpu() && from.scalar_type() == at::kLong && from.numel()) {
      const auto most = std::numeric_limits<int32_t>::max();
      TORCH_CHECK(from.abs().max().item<int64_t>() <= most, "hpu: an int64 does not fit the int32 of lazy mode");
    }
  }
  at::Tensor source = from.is_cpu() ? from : host(from), target = to.is_cpu() ? to : host(to);
  target.copy_(source);
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  if (from.sizes() != to.sizes()) to.resize_(from.sizes());
  return copy_from(from, to, false);
}

at::Scalar local_scalar_dense(const at::Tensor& t) {
  if (!inside) {
    scalars++;
    flush();
  }
  return host(t).item();
}

// ---- Views, which cannot fall back.

at::Tensor as_strided(const at::Tensor& t, c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(t, size, stride, offset);
}
at::Tensor view(const at::Tensor& t, c10::IntArrayRef size) { return at::native::view(t, size); }
at::Tensor reshape_alias(const at::Tensor& t, c10::IntArrayRef size, c10::IntArrayRef stride) {
  return at::native::_reshape_alias(t, size, stride);
}
at::Tensor unfold(const at::Tensor& t, int64_t d, int64_t size, int64_t step) { return at::native::unfold(t, d, size, step); }
const at::Tensor& resize(const at::Tensor& t, c10::IntArrayRef size, std::optional<at::MemoryFormat> format) {
  return at::native::resize_(t, size, format);
}

// ---- Everything else.

const std::set<std::string> fills = {"aten::fill_", "aten::zero_"};

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  Inside guard;
  if (guard.before) return at::native::cpu_fallback(op, stack, /*error_on_views=*/true);
  const auto arguments = torch::jit::last(*stack, schema.arguments().size());
  std::ostringstream text;
  text << schema.name() << '.' << schema.overload_name();
  for (const auto& value : arguments) describe(text, value);
  bool draws = op.hasTag(at::Tag::nondeterministic_seeded);
  for (size_t i = 0; i < arguments.size(); i++) {
    draws &= schema.arguments()[i].name() != "dropout_p" || arguments[i].toDouble() > 0;
  }
  Node node(text.str(), !draws);
  bool in_place = false;
  for (size_t i = 0; i < arguments.size(); i++) {
    const auto& argument = schema.arguments()[i];
    const bool written = argument.alias_info() && argument.alias_info()->isWrite();
    each(arguments[i], [&](const at::Tensor& t) {
      if (written) check_write(t);
      // Of a result that is filled as a whole it does not matter what it held.
      if (written && (argument.kwarg_only() || (fills.count(schema.name()) && whole(t)))) return;
      in_place |= written;
      node.reads(t);
    });
  }
  {
    Lock lock(mutex);
    fallbacks.insert(schema.name());
  }
  at::native::cpu_fallback(op, stack, /*error_on_views=*/true);
  for (const auto& value : torch::jit::last(*stack, schema.returns().size())) {
    each(value, [&](const at::Tensor& t) { node.gives(t, in_place); });
  }
}

at::Tensor to_device(const at::Tensor& t) {
  Inside guard;
  return t.defined() ? t.to(c10::Device(HPU, 0)) : t;
}

Node node_of(const char* op, const at::TensorList& inputs) {
  std::ostringstream text;
  text << op;
  for (const auto& t : inputs) describe(text, t);
  Node node(text.str(), true);
  for (const auto& t : inputs) node.reads(t);
  return node;
}

at::Tensor convolution(const at::Tensor& x, const at::Tensor& w, const std::optional<at::Tensor>& bias,
                       c10::IntArrayRef stride, c10::IntArrayRef padding, c10::IntArrayRef dilation, bool transposed,
                       c10::IntArrayRef output_padding, int64_t groups) {
  Node node = node_of("convolution", {x, w});
  const auto b = bias && bias->defined() ? std::optional(host(*bias)) : std::nullopt;
  auto y = to_device(at::convolution(host(x), host(w), b, stride, padding, dilation, transposed, output_padding, groups));
  node.gives(y);
  return y;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& grad, const at::Tensor& x, const at::Tensor& w, c10::IntArrayRef stride, c10::IntArrayRef padding,
    c10::IntArrayRef dilation, bool transposed, c10::IntArrayRef output_padding, int64_t groups, std::array<bool, 3> mask) {
  Node node = node_of("convolution_backward", {grad, x, w});
  auto [dx, dw, db] = at::convolution_backward(host(grad), host(x), host(w), at::OptionalIntArrayRef(w.size(0)), stride,
                                               padding, dilation, transposed, output_padding, groups, mask);
  for (auto* t : {&dx, &dw, &db}) {
    *t = to_device(*t);
    if (t->defined()) node.gives(*t);
  }
  return {dx, dw, db};
}

// GELU is approximated whatever is asked for, unless the environment forbids it (hpu_ops/backend/gelu_gen.cpp).
c10::string_view approximation(c10::string_view asked) { return tanh_gelu ? c10::string_view("tanh") : asked; }

at::Tensor gelu(const at::Tensor& x, c10::string_view asked) {
  Node node = node_of("gelu", {x});
  auto y = to_device(at::gelu(host(x), approximation(asked)));
  node.gives(y);
  return y;
}

at::Tensor gelu_backward(const at::Tensor& grad, const at::Tensor& x, c10::string_view asked) {
  Node node = node_of("gelu_backward", {grad, x});
  auto dx = to_device(at::gelu_backward(host(grad), host(x), approximation(asked)));
  node.gives(dx);
  return dx;
}

// ---- Autocast by the vendor's two lists.

enum class Cast { none, lower, fp32 };
std::map<std::string, Cast> casts;

template <class Signature, Signature* function> struct Autocast;
template <class Return, class... Args, Return (*function)(Args...)> struct Autocast<Return(Args...), function> {
  static const char* name;
  static Return call(Args... args) {
    c10::impl::ExcludeDispatchKeyGuard guard(c10::DispatchKey::AutocastHPU);
    const auto found = casts.find(name);
    if (found == casts.end()) return function(args...);
    const auto dtype = found->second == Cast::lower ? at::autocast::get_autocast_dtype(HPU) : at::kFloat;
    return function(at::autocast::cached_cast(dtype, args, HPU)...);
  }
};
template <class Return, class... Args, Return (*function)(Args...)>
const char* Autocast<Return(Args...), function>::name = "";

// ---- What makes core take the device for one that is there.

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = HPU;
  const c10::Device device{HPU, 0};
  const c10::Stream stream{c10::Stream::DEFAULT, device};
  c10::DeviceType type() const override { return HPU; }
  c10::Device exchangeDevice(c10::Device) const override { return device; }
  c10::Device getDevice() const override { return device; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const noexcept override { return stream; }
  c10::Stream getDefaultStream(c10::Device) const override { return stream; }
  c10::Stream exchangeStream(c10::Stream other) const noexcept override { return other; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(HPU, Guard);

struct HPUHooks final : at::HPUHooksInterface {
  explicit HPUHooks(at::HPUHooksArgs) {}
  void init() const override {}
  bool isBuilt() const { return true; }  // no override: torch 2.6 has neither
  bool isAvailable() const { return true; }
  bool hasHPU() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  bool isPinnedPtr(const void* data) const override { return is_locked(data); }
  at::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
};

// What torch asks a card of this key, of fake tensors too: there is no fused kernel but that of hpex.
int64_t fused_sdp_choice(const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, double,
                         bool, std::optional<double>, bool) {
  return static_cast<int64_t>(at::SDPBackend::math);
}

}  // namespace

namespace at {
using ::HPUHooks;
REGISTER_HPU_HOOKS(HPUHooks);
}  // namespace at

TORCH_LIBRARY_IMPL(_, HPU, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }
TORCH_LIBRARY_IMPL(aten, HPU, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("_local_scalar_dense", local_scalar_dense);
  m.impl("as_strided", as_strided);
  m.impl("view", view);
  m.impl("_reshape_alias", reshape_alias);
  m.impl("unfold", unfold);
  m.impl("resize_", resize);
  m.impl("_fused_sdp_choice", fused_sdp_choice);
  m.impl("gelu", gelu);
  m.impl("gelu_backward", gelu_backward);
  m.impl("convolution_overrideable", convolution);
  m.impl("convolution_backward_overrideable", convolution_backward);
}

TORCH_LIBRARY_IMPL(_, AutocastHPU, m) { m.fallback(torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(aten, AutocastHPU, m) {
// The operators of the vendor's lists that a training step of ours could meet.
#define LIST(op, full)                                                                             \
  {                                                                                                \
    using Wrapper = Autocast<decltype(at::_ops::full::call), &at::_ops::full::call>;               \
    const std::string overload = at::_ops::full::overload_name;                                    \
    Wrapper::name = #op;                                                                           \
    m.impl((at::_ops::full::name + (overload.empty() ? "" : "." + overload)).c_str(), &Wrapper::call); \
  }
  LIST(addmm, addmm)
  LIST(baddbmm, baddbmm)
  LIST(bmm, bmm)
  LIST(conv2d, conv2d)
  LIST(dot, dot)
  LIST(dropout, dropout)
  LIST(layer_norm, layer_norm)
  LIST(linear, linear)
  LIST(matmul, matmul)
  LIST(mean, mean)
  LIST(mean, mean_dim)
  LIST(mm, mm)
  LIST(mul, mul_Tensor)
  LIST(mul, mul_Scalar)
  LIST(mv, mv)
  LIST(softmax, softmax_int)
  LIST(log_softmax, log_softmax_int)
  LIST(scaled_dot_product_attention, scaled_dot_product_attention)
  LIST(cross_entropy_loss, cross_entropy_loss)
  LIST(nll_loss, nll_loss)
  LIST(div, div_Tensor)
  LIST(div, div_Scalar)
  LIST(embedding, embedding)
  LIST(exp, exp)
  LIST(log, log)
  LIST(logsumexp, logsumexp)
  LIST(mse_loss, mse_loss)
  LIST(pow, pow_Tensor_Scalar)
  LIST(reciprocal, reciprocal)
  LIST(rsqrt, rsqrt)
  LIST(topk, topk)
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("setup", [](bool lazy_mode, bool fp16, bool tanh, int64_t memory, const std::string& lower, const std::string& fp32) {
    lazy = lazy_mode;
    has_fp16 = fp16;
    tanh_gelu = tanh;
    limit = memory;
    for (auto& [path, cast] : {std::pair{lower, Cast::lower}, std::pair{fp32, Cast::fp32}}) {
      std::ifstream file(path);
      TORCH_CHECK(file, "hpu: cannot read ", path);
      for (std::string op; std::getline(file, op);) casts[op] = cast;
    }
  });
  m.def("host", &host);
  m.def("note", &note);
  m.def("flush", &flush);
  m.def("must_compile", &must_compile);
  m.def("keep_recipes", [](const std::string& folder) { recipes = folder; });
  m.def("capture", [](bool on) { capturing = on; });
  m.def("capturing", [] { return capturing; });
  m.def("fallbacks", [] { return fallbacks; });
  m.def("counts", [] {
    Lock lock(mutex);
    int64_t pending = -released;
    for (const Span& span : spans) pending += span.exists && span.born >= 0 ? span.bytes : 0;
    return std::map<std::string, int64_t>{{"d2h", d2h},       {"scalars", scalars}, {"compilations", compilations},
                                          {"nodes", nodes},   {"in_use", in_use + pending}, {"most_nodes", most_nodes},
                                          {"most_used", most_used}, {"pinned", pinned}};
  });
  m.def("reset_most_used", [] { most_used = in_use; });
}
