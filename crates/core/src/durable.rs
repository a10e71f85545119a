//! Files and folders that survive a power cut: what these functions have made is there afterwards, whole, under its name.

use std::collections::HashSet;
use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, IoSliceMut, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, linkat};
use rustix::io::{ReadWriteFlags, preadv2};

/// Folders that are remembered; beyond that they are synced once more.
const FOLDERS_KNOWN_MAX: usize = 10_000;

/// The permissions of every file that we make: its owner reads and writes, nobody else anything.
const PRIVATE: u32 = 0o600;

/// Makes a folder that nobody but its owner can look into.
///
/// # Errors
/// When it can't be made or synced.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    sync_upwards(folder)
}

/// Lets nobody but its owner read or write a file, whatever the umask was when it was made. Makes it where it is missing and wanted.
///
/// # Errors
/// When it can't be made, or is somebody else's.
pub fn make_private(file: &Path, make: bool) -> io::Result<()> {
    match File::open(file) {
        Ok(opened) => {
            let now = opened.metadata()?.permissions().mode() & 0o777;
            if now == PRIVATE { Ok(()) } else { opened.set_permissions(Permissions::from_mode(PRIVATE)) }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && !make => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            OpenOptions::new().write(true).create(true).truncate(false).mode(PRIVATE).open(file).map(|_| ())
        }
        Err(error) => Err(error),
    }
}

/// Makes a file, or empties the one that is there, for its owner alone. It is durable once it is synced.
pub(crate) fn create_private(file: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(PRIVATE).open(file)
}

/// Whether both names lead to one and the same file, as far as they lead anywhere.
pub(crate) fn is_same_file(one: &Path, other: &Path) -> bool {
    let whole = |file: &Path| std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    whole(one) == whole(other)
}

/// A lock on a file, until it is dropped.
#[derive(Debug)]
pub(crate) struct LockedFile(#[expect(dead_code, reason = "held until dropped")] File);

/// Locks a file for as long as what is returned is held, and makes it where it is missing; none when another process has locked it. The
/// file stays afterwards: whoever removed it could let two others lock two files of that name.
///
/// # Errors
/// When it can't be made or locked.
pub(crate) fn lock_file(path: &Path) -> io::Result<Option<LockedFile>> {
    make_private(path, true)?;
    let file = File::open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(LockedFile(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Syncs a folder and those above it: whichever were just made must survive too.
fn sync_upwards(folder: &Path) -> io::Result<()> {
    let folder = folder.canonicalize()?;
    for folder in folder.ancestors() {
        match sync_folder(folder) {
            // A folder that we may not even open was not made by us.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
            synced => synced?,
        }
    }
    Ok(())
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// How a renaming failed.
#[derive(Debug)]
pub(crate) enum RenameFailed {
    /// The file has its old name.
    NotDone(io::Error),
    /// The file has its new name, and after a power cut either of both.
    NotSynced(io::Error),
}

/// Gives a file another name on the same file system, making folders as needed. After a power cut it has one of both names.
///
/// # Errors
/// What could not be done.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), RenameFailed> {
    let (old, new) = (from.parent().unwrap_or(Path::new("/")), to.parent().unwrap_or(Path::new("/")));
    make_folder(new).map_err(RenameFailed::NotDone)?;
    std::fs::rename(from, to).map_err(RenameFailed::NotDone)?;
    // The new name first: with the old one gone and the new one not there yet, the file would be lost.
    sync_folder(new).and_then(|()| sync_folder(old)).map_err(RenameFailed::NotSynced)
}

/// Folders that are known to survive: one that somebody else has just made may not, yet.
#[derive(Debug, Default)]
pub(crate) struct Folders(Mutex<HashSet<PathBuf>>);

impl Folders {
    /// Makes the folder of a file, unless it is known.
    fn make_for(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(folder) {
            return Ok(());
        }
        make_folder(folder)?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= FOLDERS_KNOWN_MAX {
            known.clear();
        }
        known.insert(folder.to_owned());
        Ok(())
    }

    /// Writes a new file. It appears under its name before it is whole, so nobody may know the name yet: a staging name and a
    /// rename would cost another commit of the file system's journal.
    ///
    /// # Errors
    /// When the name is taken, or writing or syncing fails; then nothing stays behind.
    pub(crate) fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.make_for(path)?;
        let create = || OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path);
        let mut file = create().or_else(|error| match error.kind() {
            // Somebody has removed the folder.
            io::ErrorKind::NotFound => make_folder(path.parent().unwrap_or(Path::new("/"))).and_then(|()| create()),
            _ => Err(error),
        })?;
        let written = file.write_all(bytes).and_then(|()| settle(&file, path));
        remove_unless(path, written)
    }

    /// Gives a file without a name the name that it keeps.
    ///
    /// # Errors
    /// When the name is taken, stands on another file system, or syncing fails; then nothing stays behind.
    pub(crate) fn name_file(&self, file: &File, path: &Path) -> io::Result<()> {
        self.make_for(path)?;
        // The way that open(2) shows for files made with O_TMPFILE.
        linkat(CWD, format!("/proc/self/fd/{}", file.as_raw_fd()), CWD, path, AtFlags::SYMLINK_FOLLOW)?;
        remove_unless(path, settle(file, path))
    }

    /// Gives a file without a name one that may be taken. Whoever opens that finds the old file, or all of the new one, also after a power cut.
    ///
    /// # Errors
    /// When the name stands on another file system, or syncing fails; then the old file is there.
    pub(crate) fn replace_file(&self, file: &File, path: &Path) -> io::Result<()> {
        self.make_for(path)?;
        file.sync_all()?;
        let staged = staging_name(path);
        match std::fs::remove_file(&staged) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        linkat(CWD, format!("/proc/self/fd/{}", file.as_raw_fd()), CWD, &staged, AtFlags::SYMLINK_FOLLOW)?;
        remove_unless(&staged, std::fs::rename(&staged, path))?;
        sync_folder(path.parent().unwrap_or(Path::new("/")))
    }
}

/// Beside the name that a file is to get: a sweep takes what a crash leaves under it.
fn staging_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("#{}", std::process::id()));
    name.into()
}

/// Larger files are read by another thread in any case.
const READ_AT_ONCE_MAX: usize = 1024 * 1024;

/// All of a file, if the kernel holds it in memory: reading it then takes less time than asking another thread to. None when it has
/// to come from the disk, is large, or isn't there.
pub(crate) fn read_what_the_kernel_holds(path: &Path) -> Option<Vec<u8>> {
    let file = File::open(path).ok()?;
    let len = usize::try_from(file.metadata().ok()?.len()).ok().filter(|len| *len <= READ_AT_ONCE_MAX)?;
    let (mut bytes, mut read) = (vec![0; len], 0);
    while read < len {
        // A file system that can't tell refuses.
        let more = preadv2(&file, &mut [IoSliceMut::new(&mut bytes[read..])], read as u64, ReadWriteFlags::NOWAIT).ok()?;
        read += Some(more).filter(|more| *more > 0)?;
    }
    Some(bytes)
}

/// The bytes, then the name.
fn settle(file: &File, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    sync_folder(path.parent().unwrap_or(Path::new("/")))
}

fn remove_unless(path: &Path, done: io::Result<()>) -> io::Result<()> {
    done.inspect_err(|_| {
        let _ = std::fs::remove_file(path);
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn files_get_their_names_once() {
        let root = tempfile::tempdir().expect("temporary folder");
        let (folders, path) = (Folders::default(), root.path().join("a/b/c"));
        folders.write_new(&path, b"one").expect("written");
        assert_eq!(std::fs::read(&path).expect("there"), b"one");
        // Whether the kernel still holds it is its own affair; other bytes it may not give.
        assert!(read_what_the_kernel_holds(&path).is_none_or(|bytes| bytes == b"one"));
        assert_eq!(read_what_the_kernel_holds(&root.path().join("absent")), None);
        let taken = folders.write_new(&path, b"two").expect_err("the name is taken");
        assert_eq!((taken.kind(), std::fs::read(&path).expect("there")), (io::ErrorKind::AlreadyExists, b"one".to_vec()));

        let mut unnamed = tempfile::tempfile_in(root.path()).expect("file");
        unnamed.write_all(b"three").expect("written");
        folders.name_file(&unnamed, &root.path().join("d/e")).expect("named");
        let mut text = String::new();
        File::open(root.path().join("d/e")).expect("there").read_to_string(&mut text).expect("text");
        assert_eq!(text, "three");
        let taken = folders.name_file(&unnamed, &path).expect_err("the name is taken");
        assert_eq!((taken.kind(), std::fs::read(&path).expect("there")), (io::ErrorKind::AlreadyExists, b"one".to_vec()));
        folders.replace_file(&unnamed, &path).expect("replaced");
        assert_eq!(std::fs::read(&path).expect("there"), b"three");
        assert_eq!(std::fs::read_dir(root.path().join("a/b")).expect("folder").count(), 1, "nothing staged is left");
    }
}
