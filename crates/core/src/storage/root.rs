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

    pub(super) fn is_on_file_system_of(&self, folder: &Path) -> bool {
        std::fs::metadata(folder).is_ok_and(|folder| folder.dev() == self.device_and_inode.0)
    }

    /// Fails unless the folder is the one that was opened: before something is written below it, so that not even a folder is made under a
    /// mount point.
    pub(super) fn check(&self) -> io::Result<()> {
        if std::fs::metadata(&self.path).is_ok_and(|now| device_and_inode(&now) == self.device_and_inode) {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{} is not the folder any more that it was at the start: was its volume unmounted?",
            self.path.display()
        )))
    }

    /// Fails unless `file`, which was just written below this folder under a key that nobody knows, is in the folder that was opened.
    pub(super) fn expect(&self, file: &Path) -> io::Result<()> {
        // It is gone when the volume came back between the writing and this.
        if file.symlink_metadata().is_err() {
            return Err(io::Error::other(format!("{} is gone: was its volume unmounted and mounted?", file.display())));
        }
        self.expect_known(file)
    }

    /// As [`Root::expect`], for a file that others know and may have removed since.
    pub(super) fn expect_known(&self, file: &Path) -> io::Result<()> {
        self.check().inspect_err(|_| {
            let _ = std::fs::remove_file(file);
        })
    }
}

fn device_and_inode(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}
