//! Every setting with its meaning, unit and default: the one page of limits. The reference in `docs/configuration.md` is made
//! from it.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use ipnet::IpNet;

use super::domain::Domain;
use super::value::{DatabaseUrl, LogFormat, Origin, ResourcePolicy, Secret, StorageUrl, TicketNumbering, Value, WebUrl, Zone};

/// One setting, as the reference and the loader see it.
pub struct Entry {
    /// `section.name`, or `name` at the top.
    pub key: String,
    /// Meaning, unit and effect.
    pub doc: String,
    /// What kind of value.
    pub kind: &'static str,
    /// The default as text.
    pub default: String,
}

macro_rules! settings {
    ($(
        $(#[doc = $section_doc:literal])*
        $section:ident: $Section:ident {
            $($(#[doc = $doc:literal])* $name:ident: $type:ty = $default:expr;)*
        }
    )*) => {
        $(
            $(#[doc = $section_doc])*
            #[derive(Debug, Clone)]
            pub struct $Section {
                $($(#[doc = $doc])* pub $name: $type,)*
            }

            impl Default for $Section {
                fn default() -> Self {
                    Self { $($name: <$type as Value>::parse($default).unwrap_or_else(|hint| unreachable!("{hint}")),)* }
                }
            }
        )*

        /// All settings.
        #[derive(Debug, Clone, Default)]
        pub struct Settings {
            $($(#[doc = $section_doc])* pub $section: $Section,)*
        }

        impl Settings {
            /// Sets one setting from text. None when there is no such key.
            pub fn set(&mut self, key: &str, text: &str) -> Option<Result<(), String>> {
                $($(
                    if key == key_of(stringify!($section), stringify!($name)) {
                        return Some(<$type as Value>::parse(text).map(|value| self.$section.$name = value));
                    }
                )*)*
                None
            }

            /// The value of a setting, as it would be read. None when there is no such key.
            #[must_use]
            pub fn shown(&self, key: &str) -> Option<String> {
                $($(
                    if key == key_of(stringify!($section), stringify!($name)) {
                        return Some(self.$section.$name.show());
                    }
                )*)*
                None
            }

            /// Every setting, in the order of this page.
            #[must_use]
            pub fn entries() -> Vec<Entry> {
                let defaults = Self::default();
                vec![$($(Entry {
                    key: key_of(stringify!($section), stringify!($name)),
                    doc: concat!($($doc),*).trim().to_owned(),
                    kind: <$type as Value>::KIND,
                    default: defaults.$section.$name.show(),
                },)*)*]
            }

            /// The sections with what they are for.
            #[must_use]
            pub fn sections() -> Vec<(&'static str, String)> {
                vec![$((stringify!($section), concat!($($section_doc),*).trim().to_owned()),)*]
            }
        }
    };
}

/// Settings of `service` stand at the top of the file, the others in a table of the section's name.
fn key_of(section: &str, name: &str) -> String {
    if section == "service" { name.to_owned() } else { format!("{section}.{name}") }
}

settings! {
    /// The service as a whole.
    service: ServiceSettings {
        /// Address and port to listen on.
        listen: SocketAddr = "127.0.0.1:8080";
        /// Folder of the database and the images, where they are not elsewhere, and of uploads on their way. Made when absent.
        data_dir: PathBuf = "./imagewell-data";
        /// The database: an SQLite file, as in `sqlite:///var/lib/imagewell/imagewell.db`, or PostgreSQL, as in
        /// `postgres://imagewell:secret@db.example.com/imagewell?sslmode=verify-full`. Without one, `imagewell.db` in the data folder.
        database_url: Option<DatabaseUrl> = "";
        /// The images' bytes: a folder, as in `file:///srv/images`, or a bucket, as in `s3://images`, `gs://images` or `az://images`.
        /// Without one, `blobs` in the data folder.
        storage_url: Option<StorageUrl> = "";
        /// Origin under which browsers reach the service, as in `https://images.example.com`. With https, cookies are `Secure`.
        public_url: Option<Origin> = "";
        /// What is logged: `error`, `warn`, `info`, `debug`, `trace`, or a filter as in `info,imagewell_core=debug`.
        log: String = "info";
        /// How log lines look.
        log_format: LogFormat = "auto";
    }

    /// Connections and requests.
    server: ServerSettings {
        /// Connections open at once. More wait in the kernel's queue.
        connections_max: usize = "4096";
        /// Connections open at once from one address (an IPv6 /64 counts as one). Trusted proxies are exempt; `requests_per_address_max` holds
        /// for those behind them.
        connections_per_address_max: usize = "256";
        /// Requests under way at once from one address (an IPv6 /64 counts as one), until their answers have left. Behind a trusted proxy
        /// the address is the client's. More get 429; as streams of HTTP/2 they are refused, and clients repeat them.
        requests_per_address_max: usize = "256";
        /// Seconds for a connection to send its first byte, and then a whole request head.
        header_timeout_seconds: u64 = "10";
        /// Bytes of a request head. At least 8192.
        header_bytes_max: usize = "32768";
        /// Seconds of silence after which a request body is given up.
        body_idle_timeout_seconds: u64 = "20";
        /// Bytes per second that a request body must reach on average, after the grace.
        body_bytes_per_second_min: u64 = "1024";
        /// Seconds before the minimum rate counts.
        body_rate_grace_seconds: u64 = "10";
        /// Seconds that receiving one request body may take in all.
        body_timeout_seconds: u64 = "900";
        /// Bytes that are read and thrown away of a body that was answered before its end, so that its client gets to read the
        /// answer instead of an error of its connection. The minimum rate and the time for one body hold here, too.
        unread_body_bytes_max: u64 = "104857600";
        /// Seconds of silence after which such a body is given up.
        unread_body_idle_timeout_seconds: u64 = "5";
        /// Such bodies at once from one address (an IPv6 /64 counts as one). The connections of further ones are closed at once.
        unread_bodies_per_address_max: usize = "64";
        /// Seconds by which whoever reads an answer may be behind `response_bytes_per_second_min` before it is given up: who reads nothing
        /// is given up after this time, who reads half as fast as that after twice this time.
        response_idle_timeout_seconds: u64 = "60";
        /// Bytes per second at which answers must be read. 0 is content with any byte within the idle timeout.
        response_bytes_per_second_min: u64 = "1024";
        /// Seconds without a request after which a connection is closed, also one that answers pings. Without one on HTTP/1,
        /// `header_timeout_seconds` closes it already.
        idle_timeout_seconds: u64 = "60";
        /// Seconds that running requests get to finish after SIGTERM. Who reads nothing of an answer gets half of them.
        drain_timeout_seconds: u64 = "30";
        /// Seconds after SIGTERM during which `/readyz` fails but connections are still accepted, so that a balancer notices.
        drain_delay_seconds: u64 = "0";
        /// Streams of one HTTP/2 connection at once.
        http2_streams_max: u32 = "100";
        /// Proxies whose `X-Forwarded-For` is believed.
        trusted_proxies: Vec<IpNet> = "";
        /// Origins of other hosts whose pages may read answers and send requests with cookies.
        cors_origins: Vec<Origin> = "";
        /// Who may read `/metrics`.
        metrics_allow: Vec<IpNet> = "127.0.0.0/8,::1/128";
    }

    /// TLS. Without these the service speaks plain HTTP, for a proxy or for trying out.
    tls: TlsSettings {
        /// PEM file of the certificate chain.
        certificate_file: Option<PathBuf> = "";
        /// PEM file of the private key.
        private_key_file: Option<PathBuf> = "";
        /// Seconds between two looks whether these files have changed; a renewed certificate is then taken up. SIGHUP has them read at once.
        reload_seconds: u64 = "60";
        /// Days before the end of the certificate from which on the log and `imagewell check` warn.
        expiry_warning_days: u64 = "14";
    }

    /// Bounds on multipart bodies.
    multipart: MultipartSettings {
        /// Parts of one body. At least 8.
        parts_max: usize = "64";
        /// Header lines of one part. At least 2.
        part_headers_max: usize = "8";
        /// Bytes of one part's headers. At least 1024.
        part_header_bytes_max: usize = "8192";
        /// Bytes of a part's name. At least 64.
        name_bytes_max: usize = "256";
        /// Bytes of a text part. At least 1024.
        text_bytes_max: usize = "65536";
    }

    /// Receiving bytes.
    uploads: UploadSettings {
        /// Bytes of one upload held in memory; what is larger goes through a file without a name. All uploads together hold at most
        /// `concurrent_max` times as much; what doesn't fit goes through files too. At least 65536, so that what has come can be judged.
        memory_bytes_max: usize = "1048576";
        /// Uploads that are written to disk, inspected or stored at once. Orgs take turns.
        concurrent_max: usize = "64";
        /// Uploads under way at once, however slow they are. Orgs take turns; who gets no place within 20 seconds is told to come back.
        open_max: usize = "512";
        /// Of these, how many may be one org's.
        open_per_org_max: usize = "256";
        /// Of these, how many may be one account's.
        open_per_account_max: usize = "64";
    }

    /// What an image may be, by its headers.
    images: ImageSettings {
        /// Pixels of one frame. Phones have some 50 million.
        pixels_max: u64 = "64000000";
        /// Pixels along the longer side.
        side_px_max: u32 = "30000";
        /// Frames of an animation, pages of a TIFF.
        frames_max: u32 = "1000";
        /// Pixels of all frames together: 1000 of 1920×1080 are a recording of a screen.
        frame_pixels_max: u64 = "2000000000";
        /// Bytes of metadata that decoding one image may unpack: its colour profile, for the most part. Beyond that the picture is
        /// rendered as if it had none.
        metadata_bytes_max: u64 = "33554432";
        /// Whether HEIC images are rendered. Off, they are stored and served as they came. HEVC, in which they are coded, is covered by patents;
        /// whether decoding it needs a licence where the service runs is for its operator to find out.
        heic: bool = "true";
        /// Whether images are looked at in the background once they are stored: for the dominant colour and the blur of their record, and
        /// for presets that are prewarmed.
        looks: bool = "true";
        /// Seconds after which that is tried again where it failed for a passing reason. Each further failure makes it four times as
        /// long, up to six hours.
        look_pause_seconds: u64 = "5";
        /// Pixels of a width or height that a URL or a preset asks for.
        transform_side_px_max: u32 = "4096";
        /// Pixels of one rendering.
        transform_pixels_max: u64 = "64000000";
        /// Pixels of all frames of an animated rendering together: they are held in memory, four bytes each.
        transform_frame_pixels_max: u64 = "100000000";
    }

    /// The store of the images' bytes. What is empty of a bucket's settings comes from where its cloud's own programs look: `AWS_…`,
    /// `GOOGLE_…` and `AZURE_…` variables, or the machine's role.
    storage: StorageSettings {
        /// Address of an S3 store that isn't Amazon's, as in `https://s3.example.com` or `http://127.0.0.1:3900`.
        endpoint: String = "";
        /// Region of an S3 bucket.
        region: String = "";
        /// Access key of an S3 bucket.
        access_key_id: String = "";
        /// Secret key of an S3 bucket. Better in a file that `IMAGEWELL_STORAGE_SECRET_ACCESS_KEY_FILE` names.
        secret_access_key: Secret = "";
        /// Bytes of one part of a larger upload to a bucket, two of which are on their way at once. At least 5242880, as S3 has it.
        part_bytes: usize = "8388608";
        /// Seconds that a bucket may take to answer one request, to take the next bytes of what it is sent, and to send the next bytes
        /// of an object that somebody reads.
        time_seconds_max: u64 = "20";
        /// Bytes a second at which a request may send to a bucket: it may take as much longer as that needs, while the bucket goes on
        /// taking bytes. One that takes none is given up after `time_seconds_max` and what 1 MiB takes at this rate, because the system
        /// may hold so much unseen. At least 1.
        bytes_per_second_min: u64 = "65536";
        /// Seconds within which a request to a bucket is tried again when the bucket is away.
        retry_seconds_max: u64 = "10";
        /// Bytes of the local disk that uploads leave free, so that the database and logins go on when the disk is as good as full.
        free_bytes_min: u64 = "67108864";
        /// Inodes that uploads leave free.
        free_inodes_min: u64 = "256";
    }

    /// The database.
    database: DatabaseSettings {
        /// Connections that read an SQLite file.
        readers_max: NonZeroU32 = "4";
        /// Connections of one node to PostgreSQL. Three of them are kept for listening to other nodes and for readiness. At least 5.
        connections_max: NonZeroU32 = "20";
        /// Of these, how many writes leave to reads, so that writes that wait keep no reader out. At least one connection writes.
        reads_connections_min: u32 = "4";
        /// Whether `database_url` leads to a pooler that gives each transaction another session, as PgBouncer does with `pool_mode = transaction`.
        /// Tables are not made through it, and this node does not hear what others change but asks each second.
        transaction_pooling: bool = "false";
        /// Seconds that a request waits for PostgreSQL to come back, or for a connection to be free.
        wait_seconds_max: u64 = "5";
        /// Seconds that one statement, or one write as a whole, may take on PostgreSQL.
        time_seconds_max: u64 = "10";
        /// Seconds that a statement waits on PostgreSQL for a row or a table that another transaction holds.
        lock_seconds_max: NonZeroU32 = "2";
        /// Seconds between two statements of one transaction after which PostgreSQL ends it, because its node hangs and others wait for its rows.
        idle_transaction_seconds_max: NonZeroU32 = "10";
        /// Whether a start may make a new SQLite file although `storage_url` names a bucket. Other nodes may use a bucket, and a
        /// start that lacks their `database_url` would begin a database of its own beside theirs.
        allow_new_file_with_bucket: bool = "false";
        /// Whether `imagewell doctor` only warns of a PostgreSQL that may lose what it has committed (`fsync`, `full_page_writes` or
        /// `synchronous_commit` off, or `local` or `remote_write` beside `synchronous_standby_names`). Off, that is a fault.
        allow_weak_durability: bool = "false";
    }

    /// What is held in memory for reading.
    cache: CacheSettings {
        /// Bytes of small images.
        blob_bytes_max: u64 = "67108864";
        /// Bytes of one image; larger ones are streamed from disk.
        blob_entry_bytes_max: u64 = "1048576";
        /// Bytes of renderings on disk. Those used longest ago go first; they are made again when somebody asks.
        variant_bytes_max: u64 = "10737418240";
        /// Records of images.
        images_max: usize = "20000";
    }

    /// Password hashing with argon2id. Stored hashes keep the costs that they were made with.
    passwords: PasswordSettings {
        /// Memory of one hash, in KiB. At least 8.
        memory_kib: u32 = "19456";
        /// Passes over that memory.
        passes: u32 = "2";
        /// Hashes computed at once.
        concurrent_max: usize = "2";
        /// Logins that wait for a hash, of accounts that have logged in from there lately, and as many of others. More are told to come
        /// back. Ranges of addresses (an IPv4 /24, an IPv6 /48) take turns, and so do the addresses in them; of accounts that have logged
        /// in from there lately comes every second one.
        queue_max: usize = "1024";
        /// Of these, how many may come from one range of addresses.
        queue_per_range_max: usize = "512";
        /// Seconds that a login may wait for a hash.
        wait_seconds_max: u64 = "10";
    }

    /// Staying logged in.
    sessions: SessionSettings {
        /// Seconds without a request after which a session ends.
        idle_seconds: u64 = "43200";
        /// Seconds after the login at which a session ends in any case.
        absolute_seconds: u64 = "604800";
    }

    /// Attempts to log in. Only those that fail count.
    login: LoginSettings {
        /// Failed attempts for one account from one address within the window (an IPv6 /64 counts as one).
        attempts_per_account_max: NonZeroU32 = "10";
        /// Failed attempts from one address within the window, for whatever accounts.
        attempts_per_address_max: NonZeroU32 = "100";
        /// Failed attempts for one account within the window, from all addresses together; one range of addresses (a /24, or a /48 of IPv6)
        /// has a quarter of them. They keep nobody out who comes from an address that is known.
        attempts_per_account_anywhere_max: NonZeroU32 = "200";
        /// Seconds for which an address is known from which an account has proved itself, as long as this process runs: there only its
        /// own failures keep it out, not those of others.
        known_address_seconds: u64 = "2592000";
        /// Seconds over which attempts come back.
        window_seconds: NonZeroU32 = "60";
    }

    /// Processes that decode pixels.
    workers: WorkerSettings {
        /// Workers at once. With two or more, the first rendering of an org that waits while another org holds them all gets one more.
        concurrent_max: usize = "2";
        /// Bytes that all renderings at once may take, by estimate. One that would take more waits until it is alone. The one more of
        /// another org may take as much for itself, so in all it is twice this.
        memory_bytes_max: u64 = "536870912";
        /// Renderings that wait for their turn. More are told to come back.
        queue_max: usize = "64";
        /// Of these, how many may be one org's. An org that asks for more is told to come back; the others are not.
        queue_per_org_max: usize = "48";
        /// Seconds that a rendering may wait for its turn.
        wait_seconds_max: u64 = "10";
        /// Renderings that one worker makes before it is replaced. 1 keeps pictures of different owners in different processes.
        jobs_max: NonZeroU32 = "50";
        /// Seconds after which a rendering is given up and its worker killed.
        time_seconds_max: u64 = "30";
        /// The same for an SVG that is drawn when it is uploaded.
        drawing_seconds_max: u64 = "5";
        /// The same for the look at an image in the background, which is tried three times.
        look_seconds_max: u64 = "10";
        /// Pixels of a rendering as AVIF. More would not be ready in time: clients that read other formats get one of those, others
        /// are refused at once.
        avif_pixels_max: u64 = "12000000";
        /// Pixels of a rendering as WebP without loss. More would not be ready in time and are refused at once.
        lossless_webp_pixels_max: u64 = "16000000";
        /// Seconds for which a rendering that was refused, or took too long, is refused without another try.
        refused_seconds: u64 = "3600";
        /// Whether images are decoded also on a system that knows no landlock or no seccomp, where a hostile one that takes a
        /// worker over is less locked in. Off, such a system renders nothing; originals are served.
        allow_without_sandbox: bool = "false";
    }

    /// Removing what nothing points at.
    sweep: SweepSettings {
        /// Seconds between two sweeps in the background, and before the first one after a start.
        interval_seconds: u64 = "3600";
        /// Seconds for which a blob without a row is left alone. Longer than any upload takes, and at least 3600.
        grace_seconds: u64 = "86400";
        /// Seconds for which a deleted version can be restored. Its bytes go with the next sweep after that.
        undo_seconds: u64 = "604800";
        /// Seconds for which a blob without a row stays in the trash before it is removed for good. At least 3600.
        trash_seconds: u64 = "604800";
        /// Percent of all blobs that a sweep moves to the trash at most because no row points at them. Beyond that it moves none of them and raises an alarm, until `imagewell sweep --confirm`.
        orphans_percent_max: u32 = "5";
        /// So many blobs without a row are moved to the trash whatever their share, as long as some blob has a row.
        orphans_always: u64 = "100";
        /// Seconds by which the clock may be ahead of the last moment at which the database was in use. What has become due by a clock that is further ahead
        /// is removed as time passes, at twice the speed, and not at once. At least 120, since that moment is written down each minute.
        clock_jump_seconds_max: u64 = "600";
        /// Seconds by which a node's clock may differ from PostgreSQL's before that node removes nothing and is unready.
        clock_offset_seconds_max: u64 = "60";
    }

    /// Reading stored bytes back in the background, so that what a disk has lost is found while a backup still has it.
    scrub: ScrubSettings {
        /// Bytes per second that are read of a folder and compared with their digests. 0 switches it off. The default is 90 GB a day.
        bytes_per_second_max: u64 = "1048576";
        /// As that, of a bucket. It is off because buckets verify their objects themselves, and most charge for each request.
        bucket_bytes_per_second_max: u64 = "0";
        /// Seconds between the beginnings of two passes over all bytes. A pass that takes longer is followed by the next one at once.
        interval_seconds: u64 = "604800";
    }

    /// Serving images.
    delivery: DeliverySettings {
        /// Seconds for which a browser may show a private image without asking again. 0 asks every time, which costs a 304.
        private_max_age_seconds: u64 = "0";
        /// Which pages may embed images.
        cross_origin_resource_policy: ResourcePolicy = "same-origin";
        /// Seconds for which caches may show a public image without asking again: how long a change may go unnoticed there.
        public_max_age_seconds: u64 = "2";
        /// Seconds after that for which caches may show it once more while they ask again (RFC 5861).
        public_stale_seconds: u64 = "3";
        /// Whether clients that read AVIF get it where the format is left to them. It is a third smaller than WebP and takes three to five
        /// times as long to make.
        auto_avif: bool = "false";
    }

    /// The OpsPortal API.
    opsportal: OpsportalSettings {
        /// Bytes at which an image is refused: one byte less is accepted.
        upload_bytes_max: u64 = "10000000";
        /// Bytes at which a file is refused: one byte less is accepted.
        file_bytes_max: u64 = "10000000";
        /// Whether a reader must hold the image's permission. Off is for old portals that never looked at it.
        check_permission_on_read: bool = "true";
        /// Whether the appKey in a URL must be the image's. Off is for old portals that never looked at it.
        check_app_key_on_read: bool = "true";
        /// Whether images are served turned upright and without GPS and other metadata. What is stored never changes.
        serve_upright: bool = "false";
        /// Bytes above which `isMobile=true` gives a rendering that fits 2000×2000 pixels.
        mobile_bytes_min: u64 = "1750000";
    }
    /// The file-service API. A namespace may have rules of its own, by provisioning.
    file_service: FileServiceSettings {
        /// Bytes at which a file is refused: one byte less is accepted.
        upload_bytes_max: u64 = "10000000";
        /// Seconds for which a `secureFilePath` opens. At most 604800.
        link_ttl_seconds: u64 = "3600";
        /// Region that links are signed for; it means nothing to the local store, but it is part of the signature.
        link_region: String = "us-east-1";
        /// Zone of `last_modified`: an IANA name as in `Asia/Kolkata`, or an offset as in `+05:30`.
        time_zone: Zone = "UTC";
        /// Versions listed in one answer.
        versions_per_answer_max: NonZeroU32 = "1000";
    }

    /// The Dropbox pictures API.
    dropbox: DropboxSettings {
        /// Bytes of the largest picture.
        upload_bytes_max: u64 = "4194304";
        /// Seconds for which a picture waits to be taken.
        ticket_ttl_seconds: u64 = "3600";
        /// How pictures get their ids. At random, nobody can guess one; as a series they are small numbers from 1001.
        ticket_numbers: TicketNumbering = "random";
        /// Whether everybody who has a picture's id may look at it. Otherwise its uploader and site admins may.
        pictures_for_everyone: bool = "true";
        /// Pixels of the largest `size`.
        size_px_max: u32 = "1024";
        /// Seconds for which a login lasts, unless it is renewed.
        session_seconds: u64 = "1800";
        /// Whether requests that change something must show the CSRF token.
        csrf_on_writes: bool = "true";
        /// Whether requests that only read, and need a login, must show it too. `<img>` can't.
        csrf_on_reads: bool = "false";
        /// Values that `document.domain` may be given by answers wrapped in HTML, as in `example.com`. Pages of every host below such a domain
        /// that set it too can then read those answers and whatever else the browser has open of this host with it.
        document_domains: Vec<Domain> = "";
    }

    /// Access tokens that imagewell gives to OAuth clients.
    oauth: OauthSettings {
        /// The `iss` claim of its tokens.
        issuer: String = "imagewell";
        /// Seconds for which a token is good, unless the client has a lifetime of its own. At most 3600.
        token_ttl_seconds: u64 = "300";
    }

    /// An outside identity provider whose bearer tokens are accepted too. It is off without an issuer.
    identity_provider: IdentityProviderSettings {
        /// The `iss` claim of its tokens, as in `https://login.example.com`.
        issuer: String = "";
        /// What must stand in the `aud` claim.
        audience: String = "";
        /// Where its keys are (RFC 7517). Without one, where `ISSUER/.well-known/openid-configuration` says. https, or http on this machine.
        jwks_url: Option<WebUrl> = "";
        /// The claim that holds the org: a number is its number, a text its name. Dots lead into nested claims.
        org_claim: String = "org_id";
        /// The claim that holds names of roles in that org, as a list or separated by spaces. Dots lead into nested claims.
        roles_claim: String = "roles";
        /// Seconds for which its keys are kept. A key that was taken back is trusted no longer than that.
        jwks_ttl_seconds: u64 = "300";
        /// Seconds between two looks for a key that is not among those kept.
        unknown_key_seconds: u64 = "60";
        /// Seconds to wait for its answer.
        timeout_seconds: u64 = "5";
        /// Seconds that its clock and ours may be apart.
        leeway_seconds: u64 = "60";
    }
}
