// Checkpoints: Hugging Face folders and safetensors files, dense or compressed-tensors.
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "arguments.h"
#include "bindings.h"
#include "rarefy/checkpoint.h"
#include "source.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace rarefy::python {
namespace {

/// A checkpoint as Python holds it. (nanobind has no pointers to const.)
struct OpenCheckpoint {
  std::shared_ptr<const Checkpoint> files;
};

const CheckpointTensor& tensor_named(const OpenCheckpoint& self, const std::string& name) {
  const CheckpointTensor* tensor = self.files->find(name);
  if (tensor == nullptr) throw nb::key_error(name.c_str());
  return *tensor;
}

/// Elements of a dense tensor in the file, as bytes that keep it mapped.
auto raw(const OpenCheckpoint& self, const std::string& name) {
  const std::span<const std::byte> bytes = self.files->bytes(name);
  const nb::capsule owner(
      new std::shared_ptr<const Checkpoint>(self.files),
      [](void* kept) noexcept { delete static_cast<std::shared_ptr<const Checkpoint>*>(kept); });
  return nb::ndarray<nb::numpy, const std::uint8_t, nb::ndim<1>>(bytes.data(), {bytes.size()},
                                                                 owner);
}

Storage storage_argument(const std::string& text) {
  if (text == to_string(Storage::kDense)) return Storage::kDense;
  require(text == to_string(Storage::kSparseBitmask),
          "storage: expected dense or sparse-bitmask, got '{}'", text);
  return Storage::kSparseBitmask;
}

/// CheckpointWriter and what it reads from.
class Writer {
 public:
  Writer(const std::filesystem::path& directory, const OpenCheckpoint& like, bool overwrite)
      : like_(like.files),
        writer_(std::make_unique<CheckpointWriter>(
            directory, *like_, CheckpointWriter::Options{.overwrite = overwrite})) {}

  void add(const std::string& name, const ArrayArgument& weight, const std::string& storage) {
    const SourceArgument source(weight, "weight");
    const Storage stored = storage_argument(storage);
    const nb::gil_scoped_release unlocked;
    open().add(name, *source, stored);
  }
  void copy(const std::string& name) {
    const nb::gil_scoped_release unlocked;
    open().copy(name);
  }
  void add_file(const std::string& name, const std::string& contents) {
    open().add_file(name, contents);
  }
  void finish() {
    const nb::gil_scoped_release unlocked;
    open().finish();
    writer_.reset();
  }
  void abandon() { writer_.reset(); }

 private:
  CheckpointWriter& open() {
    require(writer_ != nullptr, "writer: expected an open one, got one that is finished");
    return *writer_;
  }
  std::shared_ptr<const Checkpoint> like_;
  std::unique_ptr<CheckpointWriter> writer_;
};

nb::tuple shape_of(const Shape& shape) {
  return nb::tuple(nb::cast(shape));
}

}  // namespace

void bind_files(nb::module_& module) {
  nb::class_<Source>(module, "Source",
                     "A weight in a file, read when it is needed: what `pack`, `plan` and "
                     "`to_dense` take as well as an array.")
      .def_prop_ro(
          "shape",
          [](const Source& self) { return nb::make_tuple(self.rows->rows(), self.rows->cols()); },
          nb::sig("def shape(self) -> tuple[int, int]"))
      .def_prop_ro("dtype",
                   [](const Source& self) { return std::string(to_string(self.rows->dtype())); })
      .def(
          "_read",
          [](const Source& self, const ArrayArgument& out) { read_dense(*self.rows, out); },
          "out"_a);
  nb::class_<CheckpointTensor>(module, "TensorInfo", "A tensor of a checkpoint.")
      .def_ro("name", &CheckpointTensor::name, "As the dense model calls it.")
      .def_prop_ro("dtype",
                   [](const CheckpointTensor& self) { return std::string(to_string(self.dtype)); })
      .def_prop_ro(
          "shape", [](const CheckpointTensor& self) { return shape_of(self.shape); },
          nb::sig("def shape(self) -> tuple[int, ...]"), "The dense shape.")
      .def_prop_ro(
          "storage",
          [](const CheckpointTensor& self) { return std::string(to_string(self.storage)); },
          "dense, sparse-bitmask or sparse-24-bitmask.")
      .def_ro("nbytes", &CheckpointTensor::bytes, "In the file, all arrays together.")
      .def_ro("dense_nbytes", &CheckpointTensor::dense_bytes)
      .def("__repr__", [](const CheckpointTensor& self) {
        return fmt::format("TensorInfo({} {} {} {})", self.name, to_string(self.dtype),
                           to_string(self.shape), to_string(self.storage));
      });
  nb::class_<OpenCheckpoint>(
      module, "Checkpoint",
      "A model folder or one .safetensors file, mapped: checkpoint[name] is a weight for `pack`, "
      "`plan` and `to_dense`; compressed ones decode on demand.")
      .def(nb::new_([](const std::filesystem::path& path) {
             const nb::gil_scoped_release unlocked;
             return OpenCheckpoint{Checkpoint::open(path)};
           }),
           "path"_a)
      .def_prop_ro("tensors", [](const OpenCheckpoint& self) { return self.files->tensors(); })
      .def("info", &tensor_named, "name"_a, nb::rv_policy::copy)
      .def("__len__", [](const OpenCheckpoint& self) { return self.files->tensors().size(); })
      .def("__contains__",
           [](const OpenCheckpoint& self, const std::string& name) {
             return self.files->find(name) != nullptr;
           })
      .def("__iter__",
           [](const OpenCheckpoint& self) {
             nb::list names;
             for (const CheckpointTensor& tensor : self.files->tensors()) names.append(tensor.name);
             return nb::iter(names);
           })
      .def(
          "__getitem__",
          [](const OpenCheckpoint& self, const std::string& name) {
            (void)tensor_named(self, name);
            return Source{self.files->source(name)};
          },
          "name"_a)
      .def("raw", &raw, "name"_a,
           "The bytes of a dense tensor of any dtype and rank, in place; read-only.");
  nb::class_<Writer>(
      module, "CheckpointWriter",
      "Writes a model folder like another, tensor by tensor; a context manager that finishes, or "
      "leaves an older checkpoint as it was when an exception comes.")
      .def(nb::init<const std::filesystem::path&, const OpenCheckpoint&, bool>(), "directory"_a,
           "like"_a, "overwrite"_a = false)
      .def("add", &Writer::add, "name"_a, "weight"_a, "storage"_a = "sparse-bitmask",
           "Writes a weight, \"dense\" or as \"sparse-bitmask\".")
      .def("copy", &Writer::copy, "name"_a, "Copies a tensor of the original.")
      .def("add_file", &Writer::add_file, "name"_a, "contents"_a)
      .def("finish", &Writer::finish)
      .def("__enter__", [](nb::object self) { return self; })
      .def(
          "__exit__",
          [](Writer& self, const nb::object& type, const nb::object&, const nb::object&) {
            if (type.is_none()) {
              self.finish();
            } else {
              self.abandon();
            }
          },
          "type"_a.none(), "value"_a.none(), "traceback"_a.none());
}

}  // namespace rarefy::python
