// rarefy::Error as Python's exceptions: what is wrong with an argument is a ValueError, the rest
// are the classes of rarefy/errors.py.
#include "bindings.h"
#include "rarefy/error.h"

namespace nb = nanobind;

namespace rarefy::python {
namespace {

const char* exception_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalidArgument:
      return "ArgumentError";
    case ErrorKind::kUnsupported:
      return "UnsupportedError";
    case ErrorKind::kCorrupt:
      return "CorruptError";
    case ErrorKind::kIo:
      return "FileError";
    case ErrorKind::kOutOfMemory:
      return "OutOfMemoryError";
    case ErrorKind::kInternal:
      break;
  }
  return "InternalError";
}

}  // namespace

void bind_errors() {
  nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const Error& error) {
      try {
        const nb::object type =
            nb::module_::import_("rarefy.errors").attr(exception_name(error.kind()));
        // Names read from files may hold bytes that are not UTF-8.
        const nb::object message = nb::steal(PyUnicode_DecodeUTF8(
            error.what(), static_cast<Py_ssize_t>(std::string_view(error.what()).size()),
            "replace"));
        PyErr_SetObject(type.ptr(), message.ptr());
      } catch (nb::python_error& failed) {
        failed.restore();
      }
    }
  });
}

}  // namespace rarefy::python
