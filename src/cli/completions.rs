use clap::Args;
use clap_complete::Shell;

use super::{Output, Result, definition};

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fam-onnx completions bash > ~/.local/share/bash-completion/completions/fam-onnx
  fam-onnx completions zsh > ~/.zfunc/_fam-onnx
  fam-onnx completions fish > ~/.config/fish/completions/fam-onnx.fish")]
pub(super) struct Completions {
    shell: Shell,
}

impl Completions {
    pub fn run(self, output: &Output) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut definition(), "fam-onnx", &mut script);
        output.print(&String::from_utf8_lossy(&script))
    }
}
