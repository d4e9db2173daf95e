//! How a mount is made, on the command line.

use bytesize::ByteSize;
use wasmfs_fs::mount::Options;

/// How the mount is made
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct OptionArgs {
    /// Let other users read the mount
    #[arg(long)]
    allow_other: bool,
    /// Have the kernel read files by itself, so that files that are open need no server; needs root
    /// and Linux 6.9
    #[arg(long)]
    passthrough: bool,
    /// Copy payloads into memory before they are served, up to SIZE in all (2G, 512MiB); what
    /// doesn't fit is served from the disk [default: 1GiB]
    #[arg(long, value_name = "SIZE", num_args = 0..=1, require_equals = true, default_missing_value = "1GiB", value_parser = size)]
    in_memory: Option<ByteSize>,
}

/// A size on the command line.
fn size(text: &str) -> Result<ByteSize, &'static str> {
    text.parse().map_err(|_| "a size is a number with a unit, such as 512M or 2G")
}

impl From<OptionArgs> for Options {
    fn from(args: OptionArgs) -> Options {
        let OptionArgs { allow_other, passthrough, in_memory } = args;
        Options { allow_other, passthrough, in_memory: in_memory.map(|size| size.0) }
    }
}
