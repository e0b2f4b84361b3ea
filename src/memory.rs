//! Memory that runs out ends the program with a message and exit code 1, not with a signal.
#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout},
    io::Write,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use mimalloc::MiMalloc;

#[global_allocator]
static MEMORY: Memory = Memory;

/// Graphs are many small strings and lists, made and dropped as graphs are rewritten: the system's allocator takes most of the
/// time of a large one.
struct Memory;

/// Bytes that may be held at a time; they are counted where there is a limit only.
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);
static HELD: AtomicUsize = AtomicUsize::new(0);

/// From here on the process may take so many bytes and no more.
pub fn limit(bytes: usize) {
    LIMIT.store(bytes, Relaxed);
}

#[inline]
fn take(size: usize) {
    let limit = LIMIT.load(Relaxed);
    if limit != usize::MAX && (size > limit || HELD.fetch_add(size, Relaxed) > limit - size) {
        out_of_memory(size);
    }
}

#[inline]
fn give(size: usize) {
    if LIMIT.load(Relaxed) != usize::MAX {
        // What was taken before there was a limit is given back, too.
        let _ = HELD.fetch_update(Relaxed, Relaxed, |held| Some(held.saturating_sub(size)));
    }
}

// SAFETY: every call goes to that allocator as it is; only null never comes back.
unsafe impl GlobalAlloc for Memory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `GlobalAlloc`, which is its own; so below.
        take(layout.size());
        given(unsafe { MiMalloc.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: see `alloc`.
        take(layout.size());
        given(unsafe { MiMalloc.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: see `alloc`.
        take(size);
        give(layout.size());
        given(unsafe { MiMalloc.realloc(memory, layout, size) }, size)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: see `alloc`.
        unsafe { MiMalloc.dealloc(memory, layout) }
        give(layout.size());
    }
}

#[inline]
fn given(memory: *mut u8, size: usize) -> *mut u8 {
    if memory.is_null() { out_of_memory(size) } else { memory }
}

/// Nothing here may ask for memory. What was being written keeps its temporary name.
#[cold]
fn out_of_memory(size: usize) -> ! {
    let mut text = [0; 96];
    let mut rest = text.as_mut_slice();
    let _ = writeln!(rest, "error: out of memory: the system does not give {size} bytes more");
    let left = rest.len();
    let _ = std::io::stderr().write_all(&text[..text.len() - left]);
    std::process::exit(1)
}
