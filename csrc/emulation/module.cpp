// Python's way to the kernels of a library: Library(path).run(name, arguments, ...) works on NumPy
// arrays in place. For tests only.

#include <dlfcn.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "library.h"

namespace py = pybind11;
using namespace np::emulation;

namespace {

Argument convert(const std::string& place, const Parameter& parameter, py::handle value) {
  if (!parameter.array) {
    if (py::isinstance<py::float_>(value)) return {nullptr, 0, value.cast<double>()};
    const auto integer = value.cast<std::int64_t>();
    return {nullptr, integer, static_cast<double>(integer)};
  }
  if (value.is_none()) return {};
  if (!py::isinstance<py::array>(value)) throw py::type_error(place + " has to be an array");
  auto array = py::reinterpret_borrow<py::array>(value);
  const auto type = array.dtype().attr("name").cast<std::string>();
  if (type != parameter.type && parameter.type != std::string("any")) {
    throw py::type_error(place + " is an array of " + type + ", not of " + parameter.type);
  }
  if (!(array.flags() & py::array::c_style)) throw py::type_error(place + " is not contiguous");
  return {parameter.writable ? array.mutable_data() : const_cast<void*>(array.data()), 0, 0};
}

class Loaded {
 public:
  explicit Loaded(const std::string& path) {
    void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    void* symbol = handle ? dlsym(handle, kLibrarySymbol) : nullptr;
    if (!symbol) throw std::runtime_error(dlerror());
    library_ = reinterpret_cast<Library* (*)()>(symbol)();
  }

  py::list names() const {
    py::list names;
    for (const auto& [name, launcher] : library_->launchers) names.append(name);
    return names;
  }

  // For each parameter: the type, whether it is an array, and whether it is written to.
  py::list parameters(const std::string& name) const {
    py::list list;
    for (const auto& p : find(name).parameters) {
      list.append(py::make_tuple(p.type, p.array, p.array && p.writable));
    }
    return list;
  }

  // The orders are numbers of Order.
  void run(
      const std::string& name, const py::args& values, int threads, int blocks,
      std::uint64_t seed) const {
    const Launcher& launcher = find(name);
    const auto& parameters = launcher.parameters;
    if (values.size() != parameters.size()) {
      throw py::type_error(
          name + " takes " + std::to_string(parameters.size()) + " arguments, not " +
          std::to_string(values.size()));
    }
    std::vector<Argument> arguments;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::string place = "argument " + std::to_string(i) + " of " + name;
      arguments.push_back(convert(place, parameters[i], values[i]));
    }
    *library_->options = {static_cast<Order>(threads), static_cast<Order>(blocks), seed};
    const py::gil_scoped_release unlocked;
    launcher.call(arguments);
  }

 private:
  const Launcher& find(const std::string& name) const {
    const auto found = library_->launchers.find(name);
    if (found == library_->launchers.end()) throw py::key_error("no kernel is bound as " + name);
    return found->second;
  }

  Library* library_;
};

}  // namespace

PYBIND11_MODULE(emulation, module) {
  py::register_exception<Error>(module, "KernelError");
  py::class_<Loaded>(module, "Library")
      .def(py::init<const std::string&>())
      .def("names", &Loaded::names)
      .def("parameters", &Loaded::parameters)
      .def(
          "run", &Loaded::run, py::arg("name"), py::kw_only(), py::arg("threads"),
          py::arg("blocks"), py::arg("seed"));
}
