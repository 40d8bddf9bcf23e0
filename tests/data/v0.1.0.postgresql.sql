-- What release 0.1.0 makes of an empty schema on PostgreSQL.
CREATE TABLE entries (
    user_id VARCHAR(255) NOT NULL,
    id VARCHAR(36) NOT NULL,
    rev BIGINT NOT NULL,
    session_id VARCHAR(255) NOT NULL,
    seq INTEGER NOT NULL,
    kind VARCHAR(16) NOT NULL,
    memory TEXT NOT NULL,
    summary TEXT NOT NULL,
    role VARCHAR(16),
    speaker TEXT,
    timestamp VARCHAR(40) NOT NULL,
    timestamp_us BIGINT NOT NULL,
    session_time VARCHAR(40) NOT NULL,
    tokens INTEGER NOT NULL,
    language VARCHAR(8) NOT NULL,
    importance FLOAT,
    topic_id VARCHAR(64),
    compressed TEXT,
    event_start_us BIGINT,
    event_end_us BIGINT,
    valid_from_us BIGINT,
    valid_to_us BIGINT,
    superseded_by VARCHAR(36),
    expires_at_us BIGINT,
    version INTEGER NOT NULL,
    sources JSONB NOT NULL,
    metadata JSONB NOT NULL,
    PRIMARY KEY (user_id, id)
);
CREATE INDEX entries_by_rev ON entries (user_id, rev);
CREATE INDEX entries_by_time ON entries (user_id, timestamp_us, id);
CREATE TABLE journal (
    seq BIGSERIAL NOT NULL,
    user_id VARCHAR(255) NOT NULL,
    entry_id VARCHAR(36) NOT NULL,
    at VARCHAR(40) NOT NULL,
    actor VARCHAR(32) NOT NULL,
    operation VARCHAR(16) NOT NULL,
    before INTEGER,
    after INTEGER,
    PRIMARY KEY (seq)
);
CREATE INDEX journal_by_entry ON journal (user_id, entry_id);
CREATE TABLE meta (
    key VARCHAR(64) NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (key)
);
CREATE TABLE sessions (
    user_id VARCHAR(255) NOT NULL,
    session_id VARCHAR(255) NOT NULL,
    created_at VARCHAR(40) NOT NULL,
    last_updated VARCHAR(40) NOT NULL,
    turns INTEGER NOT NULL,
    total_tokens BIGINT NOT NULL,
    compressed_tokens BIGINT NOT NULL,
    metadata JSONB NOT NULL,
    PRIMARY KEY (user_id, session_id)
);
CREATE TABLE update_queue (
    user_id VARCHAR(255) NOT NULL,
    memory_id VARCHAR(36) NOT NULL,
    candidate_id VARCHAR(36) NOT NULL,
    similarity FLOAT NOT NULL,
    status VARCHAR(16) NOT NULL,
    created_at VARCHAR(40) NOT NULL,
    PRIMARY KEY (user_id, memory_id, candidate_id)
);
CREATE TABLE users (
    user_id VARCHAR(255) NOT NULL,
    version BIGINT NOT NULL,
    epoch VARCHAR(32) NOT NULL,
    PRIMARY KEY (user_id)
);
CREATE TABLE index_outbox (
    seq BIGSERIAL NOT NULL,
    user_id VARCHAR(255) NOT NULL,
    entry_id VARCHAR(36) NOT NULL,
    attempts INTEGER NOT NULL,
    error TEXT,
    PRIMARY KEY (seq),
    FOREIGN KEY(user_id, entry_id) REFERENCES entries (user_id, id) ON DELETE CASCADE
);
CREATE INDEX outbox_by_entry ON index_outbox (user_id, entry_id);
CREATE INDEX outbox_by_user ON index_outbox (user_id, seq);
CREATE TABLE passages (
    user_id VARCHAR(255) NOT NULL,
    entry_id VARCHAR(36) NOT NULL,
    n INTEGER NOT NULL,
    rev BIGINT NOT NULL,
    start INTEGER NOT NULL,
    "end" INTEGER NOT NULL,
    vector BYTEA NOT NULL,
    piece_ids BYTEA NOT NULL,
    pieces BYTEA NOT NULL,
    PRIMARY KEY (user_id, entry_id, n),
    FOREIGN KEY(user_id, entry_id) REFERENCES entries (user_id, id) ON DELETE CASCADE
);
CREATE INDEX passages_by_rev ON passages (user_id, rev);
CREATE TABLE turns (
    user_id VARCHAR(255) NOT NULL,
    id VARCHAR(255) NOT NULL,
    session_id VARCHAR(255) NOT NULL,
    seq INTEGER NOT NULL,
    role VARCHAR(16) NOT NULL,
    speaker TEXT,
    content TEXT NOT NULL,
    timestamp VARCHAR(40) NOT NULL,
    timestamp_us BIGINT NOT NULL,
    session_time VARCHAR(40) NOT NULL,
    tokens INTEGER NOT NULL,
    compressed_tokens INTEGER,
    content_hash VARCHAR(64) NOT NULL,
    state VARCHAR(16) NOT NULL,
    metadata JSONB NOT NULL,
    PRIMARY KEY (user_id, id),
    UNIQUE (user_id, session_id, seq),
    FOREIGN KEY(user_id, session_id) REFERENCES sessions (user_id, session_id)
);
INSERT INTO meta (key, value) VALUES ('schema_version', '1');
