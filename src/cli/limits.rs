use clap::Args;

use crate::limits::Limits;

/// How large a model may become.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitArgs {
    /// Refuse a model of more nodes, those of local functions included
    #[arg(long, value_name = "N", default_value_t = Limits::default().nodes)]
    pub max_nodes: usize,
}

impl LimitArgs {
    pub fn limits(&self) -> Limits {
        Limits { nodes: self.max_nodes, ..Limits::default() }
    }
}

/// The same, of a command that reads no data beside the model.
#[derive(Debug, Clone, Args)]
pub(super) struct ModelLimitArgs {
    #[command(flatten)]
    nodes: LimitArgs,
    /// Refuse a model whose sparse tensors take more bytes when dense
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().unpacked, help_heading = "Limits")]
    max_unpacked: u64,
}

impl ModelLimitArgs {
    pub fn limits(&self) -> Limits {
        Limits { unpacked: self.max_unpacked, ..self.nodes.limits() }
    }
}
