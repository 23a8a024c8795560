// Errors, strings and threads of the C API.
#include <array>
#include <cstdlib>
#include <mutex>
#include <new>

#include "capi/entry.h"

namespace rarefy::capi {
namespace {

/// A fixed array: reporting that memory ran out must not need memory.
thread_local std::array<char, 1024> last_error{};

void set_last_error(std::string_view function, std::string_view message) noexcept {
  std::size_t end = 0;
  for (const std::string_view part : {function, std::string_view(": "), message}) {
    const std::size_t count = std::min(part.size(), last_error.size() - 1 - end);
    std::memcpy(last_error.data() + end, part.data(), count);
    end += count;
  }
  if (end == last_error.size() - 1) {  // Perhaps cut: not inside a character.
    const auto byte = [](std::size_t at) { return static_cast<unsigned char>(last_error[at]); };
    std::size_t lead = end - 1;
    while (lead > end - 4 && (byte(lead) & 0xC0) == 0x80) --lead;
    const unsigned char first = byte(lead);
    const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC0 ? 2 : 1;
    if (lead + length > end) end = lead;
  }
  last_error[end] = '\0';
}

rarefy_status status_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalidArgument:
      return RAREFY_INVALID_ARGUMENT;
    case ErrorKind::kUnsupported:
      return RAREFY_UNSUPPORTED;
    case ErrorKind::kCorrupt:
      return RAREFY_CORRUPT;
    case ErrorKind::kIo:
      return RAREFY_IO;
    case ErrorKind::kOutOfMemory:
      return RAREFY_OUT_OF_MEMORY;
    case ErrorKind::kInternal:
      return RAREFY_INTERNAL;
  }
  return RAREFY_INTERNAL;
}

std::mutex pool_mutex;
std::shared_ptr<ThreadPool> pool_of_new_handles;  // of pool_mutex

}  // namespace

rarefy_status caught(const char* function) noexcept {
  try {
    throw;
  } catch (const Error& e) {
    set_last_error(function, e.what());
    return status_of(e.kind());
  } catch (const std::bad_alloc&) {
    set_last_error(function, "out of memory");
    return RAREFY_OUT_OF_MEMORY;
  } catch (const std::exception& e) {
    set_last_error(function, e.what());
    return RAREFY_INTERNAL;
  } catch (...) {
    set_last_error(function, "an exception that is not a std::exception");
    return RAREFY_INTERNAL;
  }
}

char* copy_text(std::string_view text) {
  auto* copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (copy == nullptr) throw std::bad_alloc();
  if (!text.empty()) std::memcpy(copy, text.data(), text.size());
  copy[text.size()] = '\0';
  return copy;
}

DType dtype_argument(rarefy_dtype dtype, const char* argument) {
  switch (dtype) {
    case RAREFY_F32:
      return DType::kF32;
    case RAREFY_F16:
      return DType::kF16;
    case RAREFY_BF16:
      return DType::kBF16;
    default:
      fail(ErrorKind::kInvalidArgument,
           "{}: expected RAREFY_F32, RAREFY_F16 or RAREFY_BF16 (0, 1 or 2), got {}", argument,
           dtype);
  }
}

std::int64_t row_stride_argument(std::int64_t rows, std::int64_t cols, std::int64_t stride,
                                 const char* argument) {
  if (stride == 0) stride = cols;
  require(stride >= cols, "{}: expected 0 or at least {}, got {}", argument, cols, stride);
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max() / 8;
  require(stride == 0 || rows <= kMost / stride, "{}: expected {} rows to lie within 2^60 elements",
          argument, rows);
  return stride;
}

std::shared_ptr<ThreadPool> current_pool() {
  const std::scoped_lock lock(pool_mutex);
  if (!pool_of_new_handles) pool_of_new_handles = std::make_shared<ThreadPool>();
  return pool_of_new_handles;
}

}  // namespace rarefy::capi

using namespace rarefy;

const char* rarefy_version(void) {
  return RAREFY_VERSION;
}

const char* rarefy_status_name(rarefy_status status) {
  switch (status) {
    case RAREFY_OK:
      return "ok";
    case RAREFY_INVALID_ARGUMENT:
      return to_string(ErrorKind::kInvalidArgument);
    case RAREFY_UNSUPPORTED:
      return to_string(ErrorKind::kUnsupported);
    case RAREFY_CORRUPT:
      return to_string(ErrorKind::kCorrupt);
    case RAREFY_IO:
      return to_string(ErrorKind::kIo);
    case RAREFY_OUT_OF_MEMORY:
      return to_string(ErrorKind::kOutOfMemory);
    case RAREFY_INTERNAL:
      return to_string(ErrorKind::kInternal);
    default:
      return "unknown";
  }
}

const char* rarefy_last_error(void) {
  return capi::last_error.data();
}

void rarefy_string_free(char* text) {
  std::free(text);
}

rarefy_status rarefy_set_threads(int32_t threads) {
  return capi::entry("rarefy_set_threads", [&] {
    auto pool = std::make_shared<ThreadPool>(threads);
    const std::scoped_lock lock(capi::pool_mutex);
    capi::pool_of_new_handles.swap(pool);
  });
}
