// Gathers the microphone's samples into chunks of PCM16 for the simulator.
registerProcessor(
  "pcm",
  class extends AudioWorkletProcessor {
    constructor({ processorOptions }) {
      super();
      this.chunk = new Int16Array(processorOptions.samples);
      this.filled = 0;
      this.peak = 0;
    }

    process([[samples]]) {
      for (const sample of samples ?? []) {
        const value = Math.max(-1, Math.min(1, sample));
        this.peak = Math.max(this.peak, Math.abs(value));
        this.chunk[this.filled++] = value < 0 ? value * 32768 : value * 32767;
        if (this.filled === this.chunk.length) {
          const pcm = this.chunk.slice().buffer;
          this.port.postMessage({ pcm, peak: this.peak }, [pcm]);
          this.filled = this.peak = 0;
        }
      }
      return true;
    }
  },
);
