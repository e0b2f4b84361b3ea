//! Ctrl-C.

use std::sync::atomic::{AtomicBool, Ordering};

use super::Output;

/// Set by the first interrupt.
static STOP: AtomicBool = AtomicBool::new(false);

/// From here on the first interrupt sets the flag, so that what runs can end in order; the second ends the process at once.
pub(super) fn catch(output: &Output) -> &'static AtomicBool {
    let handler = || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        output.say(&format!("an interrupt will not save the state: {error}"));
    }
    &STOP
}
