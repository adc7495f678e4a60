# Every target sets the machine up first (a check of a moment when nothing is missing) and does no work twice.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup build demo test test-full bench lint install book clean-demo

PREFIX   ?= /usr/local
PROFILE  ?= release
PACKAGES ?= -p q35c -p q35
LIBRARY  := $(if $(filter --workspace,$(PACKAGES)),$(PACKAGES),-p q35-capi)
BUILT    := target/$(PROFILE:dev=debug)
OUT      := target/demo
MODEL    := examples/tiny-llama/model.onnx
TEXT     := examples/tiny-llama/test.txt
Q35C     := $(BUILT)/q35c
Q35      := $(BUILT)/q35
SAMPLE   := $(OUT)/sample.txt

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' Makefile | column -t -s $$'\t'

setup: ## install LLVM and MLIR 22 if they are missing
	@scripts/setup.sh

build: setup ## build q35c and q35, in release mode or as PROFILE says
	@cargo build --profile $(PROFILE) --quiet $(PACKAGES)

demo: build ## compile the small model, generate text, print sizes, speed and perplexity
	@$(MAKE) --no-print-directory demo-print

test: setup ## every test that this machine can run
	@scripts/ptxas.sh
	@scripts/numpy.sh
	@scripts/test-tools.sh
	cargo test --workspace --quiet

test-full: test ## the same, and the tests that take minutes
	Q35_FULL=1 cargo test --workspace --quiet
	cargo xtask tables --check

bench: build ## speed of the small model beside the memory's own bandwidth
	@$(MAKE) --no-print-directory $(OUT)/auto.q35/manifest.json
	$(Q35) bench $(OUT)/auto.q35

lint: setup ## formatting and lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings

install: build ## install commands, library, header, pages and completions under PREFIX
	@cargo build --profile $(PROFILE) --quiet $(LIBRARY)
	@scripts/install.sh $(BUILT) $(PREFIX)

book: ## pages of HTML of docs/
	@cargo xtask book

clean-demo: ## forget what demo and bench made
	rm -rf $(OUT)

# --- what the targets above make -------------------------------------------------------------------------------------------------

# Bundles, by codec.
$(OUT)/%.q35/manifest.json: $(Q35C) $(MODEL)
	@mkdir -p $(OUT)
	@$(Q35C) compile $(MODEL) --target cpu --codec $* --quiet --json -o $(OUT)/$*.q35 > $(OUT)/$*.summary
	@touch $@

# Perplexity on the beginning of the text.
$(SAMPLE): $(TEXT)
	@mkdir -p $(OUT)
	@head -c 24000 $(TEXT) > $@
$(OUT)/%.sample-ppl: $(OUT)/%.q35/manifest.json $(SAMPLE)
	@$(Q35) eval $(OUT)/$*.q35 --text $(SAMPLE) --json > $@

.SECONDARY:
.PHONY: demo-print
demo-print: $(OUT)/auto.q35/manifest.json $(OUT)/auto.sample-ppl $(OUT)/f32.sample-ppl
	@scripts/demo.sh $(OUT) $(Q35)
