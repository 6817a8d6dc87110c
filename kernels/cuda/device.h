// Device memory and streams, for code that is built without CUDA's headers.
// Functions that can fail return null or a static text that says what failed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

struct CUstream_st;

namespace quash::cuda {

// Whether this build has kernels for GPUs.
bool HasCuda();
// 0 where there is no driver or no GPU that the kernels support (sm_80 on).
int DeviceCount();
// Of the calling thread; what later calls allocate and launch on.
const char* UseDevice(int device);
const char* DeviceMemory(size_t* free_bytes, size_t* total_bytes);
// "NVIDIA H200"; up to `size` bytes with the final zero.
const char* DeviceName(int device, char* name, size_t size);

// Device memory, or pinned host memory that kernels can write to.
class Buffer {
 public:
  enum class Place { kDevice, kPinned };
  Buffer() = default;
  ~Buffer();
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(place_, other.place_);
    return *this;
  }

  // At least so many bytes; contents are lost on growth.
  const char* Reserve(size_t bytes, Place place = Place::kDevice);
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
  Place place_ = Place::kDevice;
};

class Stream {
 public:
  Stream() = default;
  ~Stream();
  Stream(const Stream&) = delete;
  const char* Open();  // does nothing if open
  CUstream_st* get() const { return stream_; }
  // Pageable `from` is read before the call returns; pinned memory later.
  const char* Upload(const void* from, size_t bytes, void* to);
  const char* Download(const void* from, size_t bytes, void* to);
  const char* Zero(void* data, size_t bytes);
  const char* Wait();

 private:
  CUstream_st* stream_ = nullptr;
};

}  // namespace quash::cuda
