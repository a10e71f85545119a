//! The folder of a store, held open.
//!
//! While the service runs, its volume can't be unmounted in the ordinary way. Where it is unmounted all the same (`umount --lazy`),
//! covered by another one or renamed, what is stored from then on would lie under the mount point, and be gone when the volume is back.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A folder, as it was when it was opened.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    /// Keeps the volume busy, and the inode's number from being given to another folder.
    _folder: File,
    device_and_inode: (u64, u64),
}

impl Root {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let folder = File::open(path)?;
        let device_and_inode = device_and_inode(&folder.metadata()?);
        Ok(Self { path: path.to_owned(), _folder: folder, device_and_inode })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Fails unless `file`, which was just written below this folder, is in the folder that was opened.
    pub(super) fn expect(&self, file: &Path) -> io::Result<()> {
        let same = std::fs::metadata(&self.path).is_ok_and(|now| device_and_inode(&now) == self.device_and_inode);
        // It is gone when the volume came back between the writing and this.
        if same && file.symlink_metadata().is_ok() {
            return Ok(());
        }
        let _ = std::fs::remove_file(file);
        Err(io::Error::other(format!(
            "{} is not the folder any more that it was at the start: was its volume unmounted?",
            self.path.display()
        )))
    }
}

fn device_and_inode(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}
