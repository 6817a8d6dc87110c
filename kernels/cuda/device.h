// Device memory and streams, for code that is built without CUDA's headers.
// Functions that can fail return null or a static text that says what failed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

struct CUevent_st;
struct CUstream_st;

namespace quash::cuda {

// Whether this build has kernels for GPUs.
bool HasCuda();
// 0 where there is no driver or no GPU that the kernels support (sm_80 on).
int DeviceCount();
// Of the calling thread; what later calls allocate and launch on.
const char* UseDevice(int device);
// Whether kernels on each of these devices can read what is allocated on the others, which
// this turns on. Changes the thread's device.
bool SharePeers(std::span<const int> devices);

// Gives the calling thread the device back that it had, which others in the process use
// too. Not one that nobody has used yet: choosing it would take memory there.
class DeviceScope {
 public:
  DeviceScope();
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;

 private:
  int device_ = -1;
};

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

// A point in a stream, for streams of any device to wait for.
class Event {
 public:
  Event() = default;
  ~Event();
  Event(const Event&) = delete;
  const char* Open();  // on the thread's device; does nothing if open
  CUevent_st* get() const { return event_; }

 private:
  CUevent_st* event_ = nullptr;
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
  const char* Record(const Event& event);
  const char* WaitFor(const Event& event);  // what is launched from here on does
  const char* Wait();

 private:
  CUstream_st* stream_ = nullptr;
};

}  // namespace quash::cuda
