// The shared library is made of the area libraries; CMake wants one source of its own.
