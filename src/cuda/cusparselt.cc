#include "cuda/cusparselt.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <map>
#include <mutex>

#include "base/check.h"

namespace rarefy::cuda {
namespace {

// The little of cusparseLt.h that is called, which 0.6 to 0.10 declare alike.
using Status = int;

/// A structure that only the library looks into: 13072 bytes in 0.6, 1024 in 0.7, 512 from 0.8 on.
struct alignas(64) Opaque {
  std::byte bytes[16384] = {};
};

constexpr int kReal16 = 2, kRealB16 = 14;  // cudaDataType_t
constexpr int kCompute32 = 2;              // CUSPARSE_COMPUTE_32F; other numbers before 0.6
constexpr int kNotTransposed = 0, kTransposed = 1;  // cusparseOperation_t
constexpr int kOrderColumns = 1, kOrderRows = 2;    // cusparseOrder_t
constexpr int kHalfOfAll = 0;                       // CUSPARSELT_SPARSITY_50_PERCENT
constexpr int kAlgorithmDefault = 0;
constexpr int kAlgorithmId = 0, kAlgorithmCount = 1;  // cusparseLtMatmulAlgAttribute_t
constexpr int kSplit = 3, kSplitMode = 4, kSplitBuffers = 5;
constexpr int kSplitTwoKernels = 2;  // Adds the pieces in a fixed order.
constexpr int kMajorVersion = 0, kMinorVersion = 1, kPatchVersion = 2;  // libraryPropertyType
constexpr unsigned kAlignment = 16;

#define RAREFY_CUSPARSELT_FUNCTIONS(X)                                                           \
  X(cusparseLtGetProperty, (int, int*))                                                          \
  X(cusparseLtInit, (Opaque*))                                                                   \
  X(cusparseLtDenseDescriptorInit,                                                               \
    (const Opaque*, Opaque*, std::int64_t, std::int64_t, std::int64_t, std::uint32_t, int, int)) \
  X(cusparseLtStructuredDescriptorInit, (const Opaque*, Opaque*, std::int64_t, std::int64_t,     \
                                         std::int64_t, std::uint32_t, int, int, int))            \
  X(cusparseLtMatDescriptorDestroy, (const Opaque*))                                             \
  X(cusparseLtMatmulDescriptorInit, (const Opaque*, Opaque*, int, int, const Opaque*,            \
                                     const Opaque*, const Opaque*, const Opaque*, int))          \
  X(cusparseLtMatmulAlgSelectionInit, (const Opaque*, Opaque*, const Opaque*, int))              \
  X(cusparseLtMatmulAlgSetAttribute, (const Opaque*, Opaque*, int, const void*, std::size_t))    \
  X(cusparseLtMatmulAlgGetAttribute, (const Opaque*, const Opaque*, int, void*, std::size_t))    \
  X(cusparseLtMatmulPlanInit, (const Opaque*, Opaque*, const Opaque*, const Opaque*))            \
  X(cusparseLtMatmulPlanDestroy, (const Opaque*))                                                \
  X(cusparseLtMatmulGetWorkspace, (const Opaque*, const Opaque*, std::size_t*))                  \
  X(cusparseLtSpMMACompressedSize2, (const Opaque*, const Opaque*, std::size_t*, std::size_t*))  \
  X(cusparseLtSpMMACompress2, (const Opaque*, const Opaque*, int, int, abi::CUdeviceptr,         \
                               abi::CUdeviceptr, abi::CUdeviceptr, abi::CUstream))               \
  X(cusparseLtMatmul,                                                                            \
    (const Opaque*, const Opaque*, const void*, abi::CUdeviceptr, abi::CUdeviceptr, const void*, \
     abi::CUdeviceptr, abi::CUdeviceptr, abi::CUdeviceptr, abi::CUstream*, std::int32_t))

// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are declarators.
#define RAREFY_MEMBER(name, parameters) Status(*name) parameters = nullptr;
struct SparseLt {
  SparseLtState state;
  RAREFY_CUSPARSELT_FUNCTIONS(RAREFY_MEMBER)
  Status (*destroy_selection)(const Opaque*) = nullptr;  ///< From 0.8 on; nothing to do before.
};
#undef RAREFY_MEMBER

#define RAREFY_LOAD(name, parameters)                                                       \
  loaded.name = reinterpret_cast<Status(*) parameters>(loaded.state.library.symbol(#name)); \
  if (loaded.name == nullptr && loaded.state.error.empty())                                 \
    loaded.state.error = loaded.state.library.file + ": no " #name;

const SparseLt& sparselt() {
  static const SparseLt library = [] {
    SparseLt loaded;
    SparseLtState& state = loaded.state;
    state.library = open_library({.stem = "libcusparseLt", .majors = {0}});
    if (!state.library) {
      state.error = "no cuSPARSELt: " + state.library.error;
      return loaded;
    }
    RAREFY_CUSPARSELT_FUNCTIONS(RAREFY_LOAD)
    if (!state.error.empty()) return loaded;
    loaded.destroy_selection = reinterpret_cast<Status (*)(const Opaque*)>(
        state.library.symbol("cusparseLtMatmulAlgSelectionDestroy"));
    int major = 0;
    int minor = 0;
    int patch = 0;
    loaded.cusparseLtGetProperty(kMajorVersion, &major);
    loaded.cusparseLtGetProperty(kMinorVersion, &minor);
    loaded.cusparseLtGetProperty(kPatchVersion, &patch);
    state.version = fmt::format("{}.{}.{}", major, minor, patch);
    if (major == 0 && minor < 6)
      state.error = fmt::format("{}: expected cuSPARSELt 0.6 or newer, found {}",
                                state.library.file, state.version);
    return loaded;
  }();
  return library;
}
#undef RAREFY_LOAD
// NOLINTEND(bugprone-macro-parentheses)

/// The library refuses by returning; only work that failed on the device leaves that in an unknown
/// state.
void check_status(Status status, const char* what) {
  constexpr Status kExecutionFailed = 6;
  constexpr const char* kMeanings[] = {
      "success",          "not initialized", "no memory",       "a value that it does not take",
      "not for this GPU", "a mapping error", "a kernel failed", "an internal error",
      "not this type",    "a zero pivot",    "not supported",   "not enough resources"};
  if (status == 0) return;
  const bool known = status > 0 && static_cast<std::size_t>(status) < std::size(kMeanings);
  fail(status == kExecutionFailed ? ErrorKind::kInternal : ErrorKind::kUnsupported,
       "GPU: {}: status {} ({})", what, status,
       known ? kMeanings[static_cast<std::size_t>(status)] : "unknown");
}

/// Calls a function by its name and checks what it returns.
#define RAREFY_CALL(name, ...) check_status(sparselt().name(__VA_ARGS__), #name)

/// The library's state for a device: made once, kept until the process ends, as weights may be.
const Opaque* handle_of(const Device& device) {
  const SparseLtState& state = cusparselt_state();
  if (!state.error.empty()) fail(ErrorKind::kUnsupported, "GPU: {}", state.error);
  static std::mutex mutex;
  static auto* handles = new std::map<int, std::unique_ptr<Opaque>>;
  const std::scoped_lock lock(mutex);
  device.bind();
  std::unique_ptr<Opaque>& handle = (*handles)[device.facts().index];
  if (handle == nullptr) {
    auto made = std::make_unique<Opaque>();
    RAREFY_CALL(cusparseLtInit, made.get());
    handle = std::move(made);
  }
  return handle.get();
}

int data_type(DType dtype) {
  if (dtype == DType::kF16) return kReal16;
  if (dtype == DType::kBF16) return kRealB16;
  fail(ErrorKind::kUnsupported, "2:4 product: expected f16 or bf16, got {}", to_string(dtype));
}

/// A description of a matrix.
class Shape {
 public:
  static Shape structured(const Opaque* handle, const StructuredProblem& p) {
    Shape shape;
    RAREFY_CALL(cusparseLtStructuredDescriptorInit, handle, shape.bytes_.get(), p.m, p.k, p.k,
                kAlignment, data_type(p.dtype), kOrderRows, kHalfOfAll);
    shape.made_ = true;
    return shape;
  }
  static Shape dense(const Opaque* handle, std::int64_t rows, std::int64_t cols,
                     std::int64_t stride, DType dtype, int order) {
    Shape shape;
    RAREFY_CALL(cusparseLtDenseDescriptorInit, handle, shape.bytes_.get(), rows, cols, stride,
                kAlignment, data_type(dtype), order);
    shape.made_ = true;
    return shape;
  }
  Shape(Shape&& other) noexcept = default;
  Shape& operator=(Shape&&) = delete;
  ~Shape() {
    if (bytes_ != nullptr && made_) sparselt().cusparseLtMatDescriptorDestroy(bytes_.get());
  }
  [[nodiscard]] const Opaque* get() const { return bytes_.get(); }

 private:
  Shape() : bytes_(std::make_unique<Opaque>()) {}
  std::unique_ptr<Opaque> bytes_;
  bool made_ = false;
};

/// A product that no algorithm is chosen for yet. The library points from one structure to another:
/// they stay where they are.
struct Description {
  Description(const Device& device, const StructuredProblem& p)
      : handle(handle_of(device)),
        a(Shape::structured(handle, p)),
        b(Shape::dense(handle, p.n, p.k, p.b_stride != 0 ? p.b_stride : p.k, p.dtype, kOrderRows)),
        d(Shape::dense(handle, p.m, p.n, p.d_stride != 0 ? p.d_stride : p.m, p.dtype,
                       kOrderColumns)) {
    RAREFY_CALL(cusparseLtMatmulDescriptorInit, handle, &product, kNotTransposed, kTransposed,
                a.get(), b.get(), d.get(), d.get(), kCompute32);
    RAREFY_CALL(cusparseLtMatmulAlgSelectionInit, handle, &selection, &product, kAlgorithmDefault);
  }
  Description(const Description&) = delete;
  Description& operator=(const Description&) = delete;
  ~Description() {
    if (sparselt().destroy_selection != nullptr) sparselt().destroy_selection(&selection);
  }

  void set(int attribute, int value) {
    RAREFY_CALL(cusparseLtMatmulAlgSetAttribute, handle, &selection, attribute, &value,
                sizeof value);
  }

  const Opaque* handle;
  Shape a, b, d;
  Opaque product, selection;
};

}  // namespace

const SparseLtState& cusparselt_state() {
  return sparselt().state;
}

struct StructuredMatmul::Impl {
  Impl(const Device& device, const StructuredProblem& problem) : what(device, problem) {}
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    if (planned) sparselt().cusparseLtMatmulPlanDestroy(&plan);
  }

  Description what;
  Opaque plan;
  bool planned = false;
  DeviceBuffer workspace;
};

StructuredMatmul::StructuredMatmul(const Stream& stream, const StructuredProblem& problem,
                                   const StructuredAlgorithm& algorithm)
    : impl_(std::make_unique<Impl>(stream.device(), problem)) {
  Description& what = impl_->what;
  what.set(kAlgorithmId, algorithm.id);
  if (algorithm.split != 1) what.set(kSplit, algorithm.split);
  if (algorithm.split > 1) {
    what.set(kSplitMode, kSplitTwoKernels);
    what.set(kSplitBuffers, algorithm.split - 1);
  }
  RAREFY_CALL(cusparseLtMatmulPlanInit, what.handle, &impl_->plan, &what.product, &what.selection);
  impl_->planned = true;
  std::size_t bytes = 0;
  RAREFY_CALL(cusparseLtMatmulGetWorkspace, what.handle, &impl_->plan, &bytes);
  if (bytes > 0) impl_->workspace = DeviceBuffer(stream, bytes);
}

StructuredMatmul::~StructuredMatmul() = default;
StructuredMatmul::StructuredMatmul(StructuredMatmul&&) noexcept = default;

int StructuredMatmul::algorithms(const Device& device, const StructuredProblem& problem) {
  const Description what(device, problem);
  int count = 0;
  RAREFY_CALL(cusparseLtMatmulAlgGetAttribute, what.handle, &what.selection, kAlgorithmCount,
              &count, sizeof count);
  return std::max(count, 1);
}

std::size_t StructuredMatmul::workspace_bytes() const {
  return impl_->workspace.size();
}

void StructuredMatmul::enqueue(const Stream& stream, abi::CUdeviceptr a, abi::CUdeviceptr b,
                               abi::CUdeviceptr c, abi::CUdeviceptr d) const {
  const float one = 1.0F;
  const float added = c != 0 ? 1.0F : 0.0F;
  abi::CUstream handle = stream.handle();
  stream.device().bind();
  RAREFY_CALL(cusparseLtMatmul, impl_->what.handle, &impl_->plan, &one, a, b, &added,
              c != 0 ? c : d, d, impl_->workspace.address(), &handle, 1);
}

DeviceBuffer compress_structured(const Stream& stream, const StructuredProblem& problem,
                                 abi::CUdeviceptr dense) {
  const Opaque* handle = handle_of(stream.device());
  const Shape shape = Shape::structured(handle, problem);
  std::size_t bytes = 0;
  std::size_t scratch_bytes = 0;
  RAREFY_CALL(cusparseLtSpMMACompressedSize2, handle, shape.get(), &bytes, &scratch_bytes);
  DeviceBuffer compressed(stream, bytes);
  const DeviceBuffer scratch(stream, std::max<std::size_t>(scratch_bytes, kAlignment));
  constexpr int kIsLeft = 1;
  RAREFY_CALL(cusparseLtSpMMACompress2, handle, shape.get(), kIsLeft, kNotTransposed, dense,
              compressed.address(), scratch.address(), stream.handle());
  return compressed;
}

}  // namespace rarefy::cuda
