//! One of each: what a service holds when backups are made and data moves.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use crate::app::{Actor, PASSWORD};
use crate::dropbox::Portal;
use crate::file_service::{FileAnswer as _, Machine};
use crate::fixtures::png_of_bytes;
use crate::process::{Process, imagewell, run, text};

/// Bytes in a second at which all of [`Variety`] takes some seconds.
pub const SLOWLY: &str = "24000";
/// Files whose blobs come first in the order of keys,
const FIRST: u64 = 12;
/// and their size.
const BYTES: usize = 8000;
/// Files with bytes that stay, [`FIRST`] excepted; the placeholder is one more.
const OTHERS: usize = 4;

/// What was stored.
pub struct Variety {
    pub images: HashMap<String, Vec<u8>>,
    pub files: HashMap<String, Vec<u8>>,
}

/// A namespace whose blobs come before all others in the order of keys.
pub fn provision_first_namespace(data: &Path) {
    let file = data.parent().expect("parent").join("namespaces.toml");
    std::fs::write(&file, "[[namespaces]]\norg = \"acme\"\nname = \"aaa\"\n").expect("writes");
    let output = run(data, &["provision", &file.to_string_lossy()]);
    assert!(output.status.success(), "{}", text(&output));
}

impl Variety {
    /// A service takes files, a placeholder, images, a picture that nobody will take, and a file that is deleted at once. Then it ends.
    pub async fn fill(data: &Path) -> Self {
        let mut command = imagewell(data, &["serve"]);
        let process = Process::start({
            command.env("IMAGEWELL_DROPBOX_TICKET_TTL_SECONDS", "1");
            command
        });
        let variety = Self::fill_at(&process).await;
        assert!(process.terminate().success());
        variety
    }

    pub async fn fill_at(process: &Process) -> Self {
        let till = Machine::till_at(&process.url, "till01");
        // Names are of one filling alone.
        let salt = u64::from(uuid::Uuid::new_v4().as_fields().0) << 8;
        let (mut files, mut images) = (HashMap::new(), HashMap::new());
        for index in 0..FIRST {
            let (path, bytes) = (format!("aaa/{salt}-{index}.png"), png_of_bytes(BYTES, salt + index));
            till.request("POST", &path).body(bytes.clone()).send().await.expect("answers").error_for_status().expect("stored");
            files.insert(path, bytes);
        }
        for index in 0..2 {
            let (name, bytes) = (format!("{salt}-{index}.png"), png_of_bytes(BYTES, salt + 50 + index));
            till.upload(&name, bytes.clone()).await.file();
            files.insert(format!("rewards/{name}"), bytes);
        }
        till.upload(&format!("{salt}-empty.png"), Vec::new()).await.file();
        let deleted = format!("{salt}-deleted.png");
        till.upload(&deleted, png_of_bytes(BYTES, salt + 60)).await.file();
        let answer = till.send("DELETE", &format!("rewards/{deleted}")).await;
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
        let ada = process.actor("ada").await;
        for index in 70..72 {
            let bytes = png_of_bytes(BYTES, salt + index);
            images.insert(ada.upload(bytes.clone()).await.uuid(), bytes);
        }
        let mut portal = Portal::at(&process.url);
        let answer = portal.log_in("ada", PASSWORD).await;
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
        portal.ticket(png_of_bytes(BYTES, salt + 80)).await;
        Self { images, files }
    }

    /// Versions that are still there after a sweep.
    pub fn lasting(&self) -> usize {
        let placeholder = 1;
        assert_eq!(self.images.len() + self.files.len(), OTHERS + usize::try_from(FIRST).expect("few"));
        self.images.len() + self.files.len() + placeholder
    }

    /// Every byte, for those who have logged in anew.
    pub async fn assert_kept_at(&self, process: &Process) {
        let ada: Actor = process.actor("ada").await;
        for (uuid, bytes) in &self.images {
            assert!(ada.read(uuid).await.body == *bytes, "{uuid}");
        }
        let till = Machine::till_at(&process.url, "till01");
        for (path, bytes) in &self.files {
            let link = till.send("GET", path).await.link();
            let read = reqwest::get(&link).await.expect("answers").bytes().await.expect("body");
            assert!(read == *bytes, "{path}");
        }
    }
}

/// As a service that runs beside does it by itself: pictures whose time is over go, and deleted files.
pub fn sweep_at_once(data: &Path) {
    // Until the picture's second is over.
    std::thread::sleep(Duration::from_millis(1100));
    let swept = imagewell(data, &["sweep"]).env("IMAGEWELL_SWEEP_UNDO_SECONDS", "0").output().expect("runs");
    let said = text(&swept);
    assert!(swept.status.success() && said.contains("1 expired pictures, 1 deleted versions"), "{said}");
}
