/** The limits of registries, pulls, signatures and images. Part of limits.ts, and used by that name. */
const KiB = 1024;
const MiB = 1024 * KiB;

/** All of them. */
export const imageLimits = {
  /** Redirects of one registry request; real ones take one or two (storage, CDN). */
  redirectsCount: 8,
  /** TCP and TLS to a registry. */
  registryDialMs: 30_000,
  /** From the request to its first header byte; a pull-through cache fetches the manifest itself meanwhile. */
  registryHeadersMs: 60_000,
  /** Of one answer: gateways add policies and cookies, addresses of stores carry tokens; Node's own 16 KiB are few. */
  registryHeaderBytes: 256 * KiB,
  /** Connections to one host, all pulls together. */
  registryConnectionsCount: 6,
  /** Sets of certificates and proxies that keep connections of their own. */
  registryRoutesCount: 32,
  /** Read ahead of the disk per layer. */
  registryReadBytes: 256 * KiB,
  /** Error documents, token answers and the like. */
  registryTextBytes: 256 * KiB,
  /**
   * One small document (these, a manifest) from its first byte to its last: 4 MiB in that time is less than any line
   * that can pull layers gives.
   */
  registryBodyMs: 60_000,
  /**
   * Failures in a row of one blob, manifest, token or signature on one host; a try that moved `pullProgressBytes`
   * starts the count again.
   */
  registryTriesCount: 4,
  /** How long it is remembered of a host what it cannot do: TLS where it need not, ranges. */
  registrySchemeMs: 5 * 60_000,
  mirrorTriesCount: 2,
  /** Longest `Retry-After` that is waited for. */
  registryRetryAfterMs: 30_000,
  /** Tokens kept. */
  registryTokensCount: 256,
  /**
   * A pull that moved less than `pullProgressBytes` in this time is stuck: a trickle of 1 B/s is not progress
   * (containerd#11650).
   */
  pullProgressMs: 60_000,
  pullProgressBytes: 64 * KiB,
  /**
   * A pull in which nothing at all was downloaded or unpacked for so long is stuck; syncing a layer of 10 GiB to a slow
   * disk is not.
   */
  pullSilentMs: 10 * 60_000,
  /** How often a pull that takes long says in the log how far it is. */
  pullReportMs: 10_000,
  /** How often `berth pull` is told: as often as an eye can follow. */
  pullProgressEveryMs: 100,
  /** Layers above this are fetched in ranges, so that several connections carry one layer. */
  pullRangesFromBytes: 64 * MiB,
  pullRangeBytes: 2 * MiB,
  /** Ranges fetched ahead into memory, all pulls together: what is ahead costs `pullRangeBytes` each. */
  pullRangesAheadCount: 4,
  /**
   * Signatures of one image that are looked at; real ones have one to three, and whoever may push to a repository may
   * add thousands.
   */
  signaturesCount: 128,
  /** Manifests of one image whose signatures are remembered: re-compressed copies of an image are rare. */
  signedManifestsCount: 4,
  /** Shorter RSA keys can be factored by those who care enough. */
  rsaMinBits: 2_048,
  /** The time that checking a signature takes grows with the square. */
  rsaMaxBits: 16_384,
  /** Reasons of a refusal that are told, and what was noticed on the way: more than anybody reads. */
  refusalReasonsCount: 5,
  signatureNotesCount: 8,
  /** A reason has parts from strangers; all of them have to fit into a status (statusMessageChars). */
  refusalReasonChars: 400,
  refusalChars: 3_000,
  /** One signature with what it signs; a real one has some 1 KiB. Also what gpgv may print. */
  signatureBytes: 64 * KiB,
  /** All signatures of one image. */
  signaturesBytes: 1 * MiB,
  /** The file with the signatures kept of an image: four times the above, in base64. */
  signaturesKeptBytes: 8 * MiB,
  /** In one file or text; a node's list of all authorities has some 140. */
  trustedCertificatesCount: 512,
  /** Signatures of certificates that are verified for one signature; a real one has two or three in a row. */
  certificateChecksCount: 16,
  /** Reading the signatures of an image, and checking them against one requirement. */
  signaturesMs: 60_000,
  /** gpgv over one signature: milliseconds, if nobody packed gigabytes into it. */
  gpgvMs: 10_000,
  /** How long the start of a broken download is kept for the next try. */
  partialKeepMs: 24 * 3_600_000,
  /** How often it is looked for what is older than that; it costs reading a few directories. */
  imageSweepMs: 3_600_000,
  /** Deleting the layers of one image goes on this long after its caller has left. */
  imageDeleteMs: 10 * 60_000,
  /**
   * Files of one artifact, and of all those of one container: each is a mount there. Models have some hundred; their
   * manifests have as many entries as fit into `manifestBytes`.
   */
  artifactFilesCount: 4_096,
  /** Directories that names make in one volume, and parts of one name: what hostile names cost depends on them. */
  artifactDirectoriesCount: 16_384,
  artifactNamePartsCount: 128,
  /** All files together; the largest models have some 800 GB. */
  artifactBytes: 2 ** 40,
  /** Entries of one additional artifact store that are looked at; each manifest is kept in memory. */
  artifactStoreEntriesCount: 1_024,
  /** Entries of an image archive (an OCI layout has one per blob). */
  archiveEntriesCount: 65_536,
  /** Names that one image may have. */
  imageNamesCount: 1_024,
  /** Together, tags and digests each: with annotationsBytes and the layers they fit into a record. */
  imageNamesBytes: 192 * KiB,
} as const;
