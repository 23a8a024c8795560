// What every C function goes through: the wall that no exception passes, the structs that may grow,
// the threads that handles share.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <string_view>

#include "base/check.h"
#include "rarefy/c.h"
#include "rarefy/dtype.h"
#include "rarefy/tensor.h"
#include "rarefy/threads.h"

namespace rarefy::capi {

/// The status of the exception in flight; its text becomes this thread's last error.
rarefy_status caught(const char* function) noexcept;

/// Runs the body of a C function and turns what it throws into a status.
template <class Body>
rarefy_status entry(const char* function, Body&& body) noexcept {
  try {
    body();
    return RAREFY_OK;
  } catch (...) {
    return caught(function);
  }
}

template <class T>
void require_given(const T* pointer, const char* argument) {
  require(pointer != nullptr, "{}: expected a pointer, got NULL", argument);
}

/// A text of explicit length; NULL is allowed for an empty one.
inline std::string_view text_argument(const char* text, std::size_t bytes, const char* argument) {
  if (bytes > 0) require_given(text, argument);
  return bytes > 0 ? std::string_view(text, bytes) : std::string_view();
}

/// The caller's options over zeros: members that an older caller does not know stay zero, and those
/// that a newer one does must be.
template <class T>
T read_options(const T* given, const char* argument) {
  T options{};
  if (given == nullptr) return options;
  const std::size_t size = given->size;
  require(size >= sizeof(given->size) && size <= 4096, "{}: size: expected {}, got {}", argument,
          sizeof(T), size);
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  for (std::size_t i = sizeof(T); i < size; ++i) {
    if (bytes[i] != 0) {
      fail(ErrorKind::kUnsupported, "{}: size: an option beyond byte {} is newer than this library",
           argument, sizeof(T));
    }
  }
  std::memcpy(&options, given, std::min(size, sizeof(T)));
  return options;
}

/// Checked before the work: a struct that the caller wants filled.
template <class T>
void require_result(const T* out, const char* argument) {
  require_given(out, argument);
  require(out->size >= sizeof(out->size), "{}: size: expected {}, got {}", argument, sizeof(T),
          out->size);
}

/// As much of `value` as the caller's struct holds; its size stays.
template <class T>
void write_result(T* out, T value) {
  value.size = out->size;
  std::memcpy(out, &value, std::min(out->size, sizeof(T)));
}

/// A copy for the caller, with a NUL; freed by rarefy_string_free.
char* copy_text(std::string_view text);

DType dtype_argument(rarefy_dtype dtype, const char* argument);

/// Checks that rows·stride counts bytes below 2^63, so that no address overflows; a stride of 0
/// becomes `cols`.
std::int64_t row_stride_argument(std::int64_t rows, std::int64_t cols, std::int64_t stride,
                                 const char* argument);

/// The pool of handles made now. They keep it, so that another `rarefy_set_threads` cannot take it
/// from under them.
std::shared_ptr<ThreadPool> current_pool();

}  // namespace rarefy::capi
