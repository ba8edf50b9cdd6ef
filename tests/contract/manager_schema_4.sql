BEGIN TRANSACTION;
CREATE TABLE allocations (
	consumer_id VARCHAR(36) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	resource_class VARCHAR(64) NOT NULL, 
	host_id VARCHAR(128) NOT NULL, 
	amount BIGINT NOT NULL, 
	PRIMARY KEY (consumer_id, kind, resource_class), 
	CONSTRAINT allocations_amount_positive CHECK (amount >= 0)
);
CREATE TABLE audit_entries (
	sequence INTEGER NOT NULL, 
	occurred_at BIGINT NOT NULL, 
	actor VARCHAR(512) NOT NULL, 
	action VARCHAR(64) NOT NULL, 
	subject VARCHAR(512) NOT NULL, 
	outcome INTEGER NOT NULL, 
	details TEXT NOT NULL, 
	previous_hash BLOB NOT NULL, 
	hash BLOB NOT NULL, 
	PRIMARY KEY (sequence)
);
INSERT INTO "audit_entries" VALUES(1,1,'spiffe://tokyo.example/operator/main','vm.started','vm-1',1,'{"host_id": "h1"}',X'0000000000000000000000000000000000000000000000000000000000000000',X'AE44EFFDFDEFD04286B33055FFD6C3175B67D16EC3FAB9A251678B25431BC128');
INSERT INTO "audit_entries" VALUES(2,2,'spiffe://tokyo.example/operator/main','vm.started','vm-2',1,'{"host_id": "h1"}',X'AE44EFFDFDEFD04286B33055FFD6C3175B67D16EC3FAB9A251678B25431BC128',X'546DF84F7D66FB2B5A3CE9C15E4B08D4CB1CF2657B03EC1BC5994990A12C7042');
CREATE TABLE evacuation_machines (
	evacuation_id VARCHAR(36) NOT NULL, 
	vm_id VARCHAR(36) NOT NULL, 
	vm_name VARCHAR(256) NOT NULL, 
	disk_bytes BIGINT NOT NULL, 
	stage VARCHAR(16) NOT NULL, 
	destination INTEGER NOT NULL, 
	tries INTEGER NOT NULL, 
	attempts INTEGER NOT NULL, 
	due_at BIGINT NOT NULL, 
	changed_at BIGINT NOT NULL, 
	problem BLOB, 
	PRIMARY KEY (evacuation_id, vm_id)
);
CREATE TABLE evacuations (
	evacuation_id VARCHAR(36) NOT NULL, 
	requested_by VARCHAR(512) NOT NULL, 
	request BLOB NOT NULL, 
	cancelled BOOLEAN NOT NULL, 
	created_at BIGINT NOT NULL, 
	ended_at BIGINT, 
	PRIMARY KEY (evacuation_id)
);
CREATE TABLE hosts (
	host_id VARCHAR(128) NOT NULL, 
	host BLOB NOT NULL, 
	reachable BOOLEAN NOT NULL, 
	seen_at BIGINT NOT NULL, 
	generation BIGINT NOT NULL, 
	PRIMARY KEY (host_id)
);
INSERT INTO "hosts" VALUES('h1',X'0A026831',1,5,7);
CREATE TABLE invitations (
	invitation_id VARCHAR(32) NOT NULL, 
	expires_at BIGINT NOT NULL, 
	caller_pem BLOB NOT NULL, 
	door_cert BLOB NOT NULL, 
	door_key BLOB NOT NULL, 
	used_by VARCHAR(180) NOT NULL, 
	used_ca BLOB NOT NULL, 
	PRIMARY KEY (invitation_id)
);
CREATE TABLE migrations (
	migration_id VARCHAR(36) NOT NULL, 
	vm_id VARCHAR(36) NOT NULL, 
	vm_name VARCHAR(256) NOT NULL, 
	tenant_domain VARCHAR(180) NOT NULL, 
	tenant VARCHAR(256) NOT NULL, 
	host_id VARCHAR(128) NOT NULL, 
	to_cloud VARCHAR(63) NOT NULL, 
	to_manager VARCHAR(512) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	generation BIGINT NOT NULL, 
	source_epoch BIGINT NOT NULL, 
	requested_by VARCHAR(512) NOT NULL, 
	request BLOB NOT NULL, 
	cancel_requested BOOLEAN NOT NULL, 
	transfers_failed INTEGER NOT NULL, 
	furthest_bytes BIGINT NOT NULL, 
	limit_bytes_per_second BIGINT, 
	limit_schedule BLOB, 
	created_at BIGINT NOT NULL, 
	state_changed_at BIGINT NOT NULL, 
	ended_at BIGINT, 
	reserve_request BLOB, 
	grant BLOB, 
	destination_control BLOB, 
	destination_data BLOB, 
	reserved_seconds INTEGER, 
	receipt BLOB, 
	stopped_at BIGINT, 
	hand_over BLOB, 
	downtime BIGINT, 
	taken_back_epoch BIGINT, 
	relinquishment BLOB, 
	resolution INTEGER, 
	problem BLOB, 
	PRIMARY KEY (migration_id)
);
CREATE TABLE old_authorities (
	sha256 BLOB NOT NULL, 
	accepted_until BIGINT NOT NULL, 
	PRIMARY KEY (sha256)
);
CREATE TABLE owed_calls (
	kind VARCHAR(16) NOT NULL, 
	migration_id VARCHAR(36) NOT NULL, 
	target VARCHAR(128) NOT NULL, 
	subject_id VARCHAR(36) NOT NULL, 
	attempts INTEGER NOT NULL, 
	due_at BIGINT NOT NULL, 
	PRIMARY KEY (kind, migration_id)
);
CREATE TABLE own_bundle (
	sequence BIGINT NOT NULL, 
	sha256 BLOB NOT NULL, 
	PRIMARY KEY (sequence)
);
CREATE TABLE peers (
	cloud_id VARCHAR(63) NOT NULL, 
	address VARCHAR(300) NOT NULL, 
	spiffe_id VARCHAR(512) NOT NULL, 
	seen_at BIGINT NOT NULL, 
	PRIMARY KEY (cloud_id)
);
CREATE TABLE providers (
	domain VARCHAR(180) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	bundle BLOB NOT NULL, 
	met_at BIGINT NOT NULL, 
	state_changed_at BIGINT NOT NULL, 
	told_sequence BIGINT NOT NULL, 
	PRIMARY KEY (domain)
);
CREATE TABLE reservations (
	reservation_id VARCHAR(36) NOT NULL, 
	migration_id VARCHAR(36) NOT NULL, 
	vm_id VARCHAR(36) NOT NULL, 
	from_cloud VARCHAR(63) NOT NULL, 
	requested_by VARCHAR(512) NOT NULL, 
	host_id VARCHAR(128) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	expires_at BIGINT NOT NULL, 
	created_at BIGINT NOT NULL, 
	price_version BIGINT NOT NULL, 
	request BLOB NOT NULL, 
	grant BLOB NOT NULL, 
	hand_over BLOB, 
	hand_over_at BIGINT, 
	relinquishment BLOB, 
	resolution INTEGER, 
	PRIMARY KEY (reservation_id), 
	CONSTRAINT reservations_one_per_migration UNIQUE (migration_id)
);
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(4);
CREATE TABLE usage_records (
	sequence INTEGER NOT NULL, 
	usage_id VARCHAR(36) NOT NULL, 
	vm_id VARCHAR(36) NOT NULL, 
	tenant_domain VARCHAR(180) NOT NULL, 
	tenant VARCHAR(256) NOT NULL, 
	record BLOB NOT NULL, 
	PRIMARY KEY (sequence), 
	UNIQUE (usage_id)
);
INSERT INTO "usage_records" VALUES(1,'u1','v1','tokyo.example','acme',X'72');
CREATE TABLE vms (
	vm_id VARCHAR(36) NOT NULL, 
	name VARCHAR(256) NOT NULL, 
	cloud_id VARCHAR(63) NOT NULL, 
	epoch BIGINT NOT NULL, 
	host_id VARCHAR(128) NOT NULL, 
	tenant_domain VARCHAR(180) NOT NULL, 
	tenant VARCHAR(256) NOT NULL, 
	migration_id VARCHAR(36), 
	body BLOB NOT NULL, 
	seen_at BIGINT NOT NULL, 
	PRIMARY KEY (vm_id), 
	CONSTRAINT vms_epoch_positive CHECK (epoch >= 1)
);
CREATE INDEX vms_by_host ON vms (host_id);
CREATE INDEX vms_by_tenant ON vms (cloud_id, tenant_domain, tenant, name, vm_id);
CREATE INDEX vms_by_name ON vms (cloud_id, name, vm_id);
CREATE INDEX allocations_by_host ON allocations (host_id);
CREATE INDEX reservations_by_state ON reservations (state, expires_at);
CREATE INDEX reservations_by_vm ON reservations (vm_id);
CREATE INDEX migrations_by_tenant ON migrations (tenant_domain, tenant, created_at, migration_id);
CREATE INDEX migrations_by_vm ON migrations (vm_id);
CREATE INDEX migrations_by_state ON migrations (state);
CREATE INDEX migrations_by_creation ON migrations (created_at, migration_id);
CREATE INDEX evacuations_by_end ON evacuations (ended_at);
CREATE INDEX usage_records_by_tenant ON usage_records (tenant_domain, tenant, sequence);
CREATE INDEX owed_calls_by_due ON owed_calls (due_at);
CREATE TRIGGER audit_entries_in_order BEFORE INSERT ON audit_entries
        WHEN NEW.sequence IS NOT (SELECT coalesce(max(sequence), 0) + 1 FROM audit_entries)
        BEGIN SELECT RAISE(ABORT, 'audit entries are appended only'); END;
CREATE TRIGGER audit_entries_no_update BEFORE UPDATE ON audit_entries
        BEGIN SELECT RAISE(ABORT, 'audit entries are never changed'); END;
CREATE TRIGGER audit_entries_no_delete BEFORE DELETE ON audit_entries
        BEGIN SELECT RAISE(ABORT, 'audit entries are never removed'); END;
COMMIT;
