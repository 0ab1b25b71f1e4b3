"""Home Assistant's own Wyoming integration: ``python drive_homeassistant.py MODE HOST FILE RATE``.

A core without a web page: the user's step of the config flow, then the speech-to-text entity.
"""

import asyncio
import json
import logging
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from homeassistant import bootstrap, config, config_entries, loader, setup
from homeassistant.components import stt
from homeassistant.const import __version__
from homeassistant.core import HomeAssistant

PIECE = 3_200


async def stream(data: bytes) -> AsyncIterator[bytes]:
    for begin in range(0, len(data), PIECE):
        yield data[begin : begin + PIECE]


async def main(mode: str, host: str, path: str, rate: str) -> None:
    name, port = host.split(":")
    with tempfile.TemporaryDirectory() as folder:
        hass = HomeAssistant(folder)
        hass.config.skip_pip = True
        loader.async_setup(hass)
        hass.config_entries = config_entries.ConfigEntries(hass, {})
        await bootstrap.async_load_base_functionality(hass)
        await config.async_process_ha_core_config(hass, {})
        assert await setup.async_setup_component(hass, "homeassistant", {})
        flow = await hass.config_entries.flow.async_init("wyoming", context={"source": "user"})
        made = await hass.config_entries.flow.async_configure(
            flow["flow_id"], {"host": name, "port": int(port)}
        )
        entry = made["result"]  # as if somebody had typed host and port
        await hass.async_block_till_done()
        assert entry.state is config_entries.ConfigEntryState.LOADED, entry.state
        (found,) = hass.states.async_entity_ids("stt")
        engine = stt.async_get_speech_to_text_entity(hass, found)
        metadata = stt.SpeechMetadata(
            language=engine.supported_languages[0],
            format=stt.AudioFormats.WAV,
            codec=stt.AudioCodecs.PCM,
            bit_rate=stt.AudioBitRates.BITRATE_16,
            sample_rate=stt.AudioSampleRates.SAMPLERATE_16000,
            channel=stt.AudioChannels.CHANNEL_MONO,
        )
        assert engine.check_metadata(metadata)
        result = await engine.async_process_audio_stream(metadata, stream(Path(path).read_bytes()))
        assert result.result is stt.SpeechResultState.SUCCESS, result
        await hass.async_stop(force=True)
    client = f"Home Assistant {__version__}, its Wyoming integration"
    print(json.dumps({"text": result.text, "messages": 1, "client": client}))


logging.basicConfig(level=logging.ERROR)
asyncio.run(main(*sys.argv[1:]))
