#include "rarefy/error.h"

namespace rarefy {

const char* to_string(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalidArgument:
      return "invalid-argument";
    case ErrorKind::kUnsupported:
      return "unsupported";
    case ErrorKind::kCorrupt:
      return "corrupt";
    case ErrorKind::kIo:
      return "io";
    case ErrorKind::kOutOfMemory:
      return "out-of-memory";
    case ErrorKind::kInternal:
      return "internal";
  }
  return "internal";
}

}  // namespace rarefy
