// An `hpu` device in host memory: every operator runs on the CPU, and what a real device would find costly is counted.
//
// What stock PyTorch needs for that: kernels that allocate, copy and view; a boxed fallback for the rest; a device guard; the
// hooks class HPUHooks; and wrappers for autocast, of which core registers none for this device.

#include <torch/extension.h>

#include <ATen/EmptyTensor.h>
#include <ATen/autocast_mode.h>
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

#include <fstream>
#include <map>
#include <mutex>
#include <set>

namespace {

constexpr auto HPU = c10::DeviceType::HPU;

// ---- What is counted.

std::mutex mutex;
int64_t d2h = 0, scalars = 0, pinned = 0, compilations = 0, in_use = 0, most_used = 0;
bool lazy = false, has_fp16 = true;
size_t graph = 0;            // Hash of the operators recorded since the last flush.
std::set<size_t> compiled;   // Hashes of the graphs that have run.
std::set<std::string> fallbacks;
thread_local bool inside = false;  // In a fallback, whose own copies do not count.

struct Inside {
  bool before = inside;
  Inside() { inside = true; }
  ~Inside() { inside = before; }
};

void note(const std::string& what) {
  std::lock_guard<std::mutex> lock(mutex);
  graph = graph * 1000003 ^ std::hash<std::string>{}(what);
}

bool flush() {
  std::lock_guard<std::mutex> lock(mutex);
  const bool fresh = lazy && graph && compiled.insert(graph).second;
  compilations += fresh;
  graph = 0;
  return fresh;
}

void describe(std::ostream& out, const c10::IValue& value) {
  if (value.isTensor()) {
    const auto& t = value.toTensor();
    if (t.defined()) out << t.scalar_type() << t.sizes() << t.is_cpu();
    if (t.defined() && t.unsafeGetTensorImpl()->is_wrapped_number()) out << t.item();
  } else if (value.isList()) {
    out << '[';
    for (const c10::IValue& item : value.toListRef()) describe(out, item);
    out << ']';
  } else if (value.isInt() || value.isDouble() || value.isBool()) {
    out << value;
  }
}

void check_dtype(c10::ScalarType dtype) {
  TORCH_CHECK(dtype != at::kDouble && !c10::isComplexType(dtype), "hpu: ", dtype, " is not supported");
  TORCH_CHECK(has_fp16 || dtype != at::kHalf, "hpu: Half is not supported by the first generation");
}

// ---- Memory.

struct HostAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    auto* block = static_cast<size_t*>(c10::alloc_cpu(bytes + 64));
    *block = bytes;
    std::lock_guard<std::mutex> lock(mutex);
    in_use += bytes;
    most_used = std::max(most_used, in_use);
    return {reinterpret_cast<char*>(block) + 64, block, &free, c10::Device(HPU, 0)};
  }
  static void free(void* block) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      in_use -= *static_cast<size_t*>(block);
    }
    c10::free_cpu(block);
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
} allocator;

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
    std::lock_guard<std::mutex> lock(mutex);
    locked.insert(block);
    return {block, block, &free, c10::Device(c10::kCPU)};
  }
  static void free(void* block) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      locked.erase(block);
    }
    c10::free_cpu(block);
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
} pinned_allocator;

bool is_locked(const void* data) {
  std::lock_guard<std::mutex> lock(mutex);
  return locked.count(data);
}

// The same memory as a CPU tensor.
at::Tensor host(const at::Tensor& t) {
  return at::from_blob(t.data_ptr(), t.sizes(), t.strides(), [t](void*) {}, t.options().device(at::kCPU));
}

// ---- Copies.

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  if (!inside) {
    if (to.is_cpu()) {
      d2h++;
      flush();
    } else {
      std::ostringstream text;
      text << "copy" << from.scalar_type() << to.scalar_type() << to.sizes() << from.is_cpu();
      note(text.str());
      pinned += from.is_cpu() && is_locked(from.storage().data());
    }
    if (lazy && from.is_cpu() && from.scalar_type() == at::kLong && from.numel()) {
      const auto limit = std::numeric_limits<int32_t>::max();
      TORCH_CHECK(from.abs().max().item<int64_t>() <= limit, "hpu: an int64 does not fit the int32 of lazy mode");
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

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  if (!inside) {
    std::ostringstream text;
    text << op.schema().name() << '.' << op.schema().overload_name();
    for (const auto& value : torch::jit::last(*stack, op.schema().arguments().size())) describe(text, value);
    note(text.str());
    std::lock_guard<std::mutex> lock(mutex);
    fallbacks.insert(op.schema().name());
  }
  Inside guard;
  at::native::cpu_fallback(op, stack, /*error_on_views=*/true);
}

at::Tensor to_device(const at::Tensor& t) {
  Inside guard;
  return t.defined() ? t.to(c10::Device(HPU, 0)) : t;
}

void note_shapes(const char* op, const at::Tensor& a, const at::Tensor& b) {
  std::ostringstream text;
  text << op << a.sizes() << b.sizes() << a.scalar_type();
  note(text.str());
}

at::Tensor convolution(const at::Tensor& x, const at::Tensor& w, const std::optional<at::Tensor>& bias,
                       c10::IntArrayRef stride, c10::IntArrayRef padding, c10::IntArrayRef dilation, bool transposed,
                       c10::IntArrayRef output_padding, int64_t groups) {
  note_shapes("convolution", x, w);
  const auto b = bias && bias->defined() ? std::optional(host(*bias)) : std::nullopt;
  return to_device(at::convolution(host(x), host(w), b, stride, padding, dilation, transposed, output_padding, groups));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& grad, const at::Tensor& x, const at::Tensor& w, c10::IntArrayRef stride, c10::IntArrayRef padding,
    c10::IntArrayRef dilation, bool transposed, c10::IntArrayRef output_padding, int64_t groups, std::array<bool, 3> mask) {
  note_shapes("convolution_backward", x, w);
  const auto [dx, dw, db] = at::convolution_backward(host(grad), host(x), host(w), at::OptionalIntArrayRef(w.size(0)), stride,
                                                     padding, dilation, transposed, output_padding, groups, mask);
  return {to_device(dx), to_device(dw), to_device(db)};
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
  m.def("setup", [](bool lazy_mode, bool fp16, const std::string& lower, const std::string& fp32) {
    lazy = lazy_mode;
    has_fp16 = fp16;
    for (auto& [path, cast] : {std::pair{lower, Cast::lower}, std::pair{fp32, Cast::fp32}}) {
      std::ifstream file(path);
      TORCH_CHECK(file, "hpu: cannot read ", path);
      for (std::string op; std::getline(file, op);) casts[op] = cast;
    }
  });
  m.def("host", &host);
  m.def("note", &note);
  m.def("flush", &flush);
  m.def("fallbacks", [] { return fallbacks; });
  m.def("counts", [] {
    return std::map<std::string, int64_t>{
        {"d2h", d2h}, {"scalars", scalars}, {"pinned", pinned}, {"compilations", compilations}, {"in_use", in_use}, {"most_used", most_used}};
  });
  m.def("reset_most_used", [] { most_used = in_use; });
}
