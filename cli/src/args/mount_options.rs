//! How a mount is made, on the command line.

use bytesize::ByteSize;
use wasmfs_fs::mount::Options;

/// How the mount is made
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct OptionArgs {
    /// Let other users look into the mount
    #[arg(long)]
    allow_other: bool,
    /// Let the kernel read files by itself, so that what is open or mapped needs no server (as
    /// root, Linux 6.9)
    #[arg(long)]
    passthrough: bool,
    /// Serve what is opened from memory alone, so that the store's disk has no part in it any more;
    /// at most so much (1G, 512M)
    #[arg(long, value_name = "SIZE", num_args = 0..=1, require_equals = true, default_missing_value = "1GiB")]
    in_memory: Option<ByteSize>,
}

impl From<OptionArgs> for Options {
    fn from(args: OptionArgs) -> Options {
        let OptionArgs { allow_other, passthrough, in_memory } = args;
        Options { allow_other, passthrough, in_memory: in_memory.map(|size| size.0) }
    }
}
