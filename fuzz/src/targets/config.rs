//! The options of a run.

use super::scratch::{with_directory, write};
use super::sound;
use fam_onnx::train::Config;

/// What is read and can be used is written and read again as the same.
pub fn config(data: &[u8]) {
    with_directory(|directory| {
        let path = directory.join("config.toml");
        write(&path, data);
        let Some(config) = sound(Config::read(&path)) else { return };
        if sound(config.check()).is_none() {
            return;
        }
        let text = config.to_toml().expect("options that can be used can be written");
        write(&path, text.as_bytes());
        let again = Config::read(&path).expect("what was written can be read").to_toml().expect("and written again");
        assert_eq!(text, again);
    });
}
